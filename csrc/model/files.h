// Files of a model folder. The folder is untrusted: a name must stay inside the folder, also through symbolic links,
// and must be a regular file. Nothing in the folder is executed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace llada {

// Absolute path of `name` in `folder`. A link may leave the folder only into the blob store of a hub cache
// (<repository>/snapshots/<revision> -> <repository>/blobs). Throws ModelNotFoundError or ModelFormatError.
std::string resolve_model_file(const std::string& folder, const std::string& name);

bool model_file_exists(const std::string& folder, const std::string& name);

// Throws ModelFormatError if the file is longer than max_bytes, or if git-lfs left a pointer in its place.
std::string read_text_file(const std::string& path, std::int64_t max_bytes);

// Throws ModelFormatError that says so if this is what git-lfs leaves in the place of a file that was not fetched.
void check_is_no_pointer(const std::string& name, std::string_view content);

// A file that is read in pieces and never mapped. Where another process shortens a mapped file, a read of the pages
// ends this process by SIGBUS; here that is an error like any other.
class ModelFile {
 public:
  // Throws ModelNotFoundError, ModelFormatError (no regular file, not to be read), or OutOfMemoryError where the system
  // lets this process open no more files.
  explicit ModelFile(const std::string& path);
  ~ModelFile();
  ModelFile(const ModelFile&) = delete;
  ModelFile& operator=(const ModelFile&) = delete;

  // When it was opened.
  std::int64_t num_bytes() const { return num_bytes_; }

  // Bytes from `offset` on into `to`; may be called from several threads. Throws ModelFormatError if the file has come
  // to an end before, or cannot be read.
  void read(std::int64_t offset, std::int64_t num_bytes, char* to) const;

 private:
  std::string name_;  // for messages
  int descriptor_ = -1;
  std::int64_t num_bytes_ = 0;
};

}  // namespace llada
