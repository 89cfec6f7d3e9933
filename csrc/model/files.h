// Files of a model folder. The folder is untrusted: a name must stay inside it, also through symbolic links, and must
// be a regular file. Nothing in it is executed.
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

// A whole file, mapped for reading. While it is mapped, a file that another process truncates ends this one by SIGBUS:
// the loader copies all tensors and unmaps before it returns.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const char* data() const { return data_; }
  std::int64_t num_bytes() const { return num_bytes_; }

 private:
  const char* data_ = nullptr;
  std::int64_t num_bytes_ = 0;
};

}  // namespace llada
