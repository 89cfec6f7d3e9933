#include "model/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/check.h"

namespace llada {
namespace {

namespace fs = std::filesystem;

bool is_inside(const fs::path& path, const fs::path& folder) {
  const auto [end, unused] = std::mismatch(folder.begin(), folder.end(), path.begin(), path.end());
  return end == folder.end();
}

fs::path real_folder(const std::string& folder) {
  std::error_code error;
  const fs::path path = fs::canonical(folder, error);
  check(!error, ErrorKind::kModelNotFound, "expected a model folder, found nothing at \"", folder, "\" (",
        error.message(), ")");
  check(fs::is_directory(path, error), ErrorKind::kModelNotFound, "expected a model folder, \"", folder,
        "\" is not a directory");
  return path;
}

}  // namespace

std::string resolve_model_file(const std::string& folder, const std::string& name) {
  const fs::path root = real_folder(folder);
  const bool plain = !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
                     name.find('\0') == std::string::npos;
  check(plain, ErrorKind::kModelFormat, "expected the name of a file in the model folder, got \"", name, "\"");
  std::error_code error;
  const fs::path path = fs::canonical(root / name, error);
  check(!error, ErrorKind::kModelNotFound, "expected the file ", name, " in \"", folder, "\" (", error.message(), ")");
  const bool hub_cache = root.parent_path().filename() == "snapshots";
  check(is_inside(path, root) || (hub_cache && is_inside(path, root.parent_path().parent_path() / "blobs")),
        ErrorKind::kModelFormat, name, ": expected a file in the model folder, got a link that leaves it");
  check(fs::is_regular_file(path, error), ErrorKind::kModelFormat, name,
        ": expected a regular file, got a folder, pipe or device");
  return path.string();
}

bool model_file_exists(const std::string& folder, const std::string& name) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(real_folder(folder) / name, error);
  return fs::exists(status);
}

std::string read_text_file(const std::string& path, std::int64_t max_bytes) {
  const MappedFile file(path);
  check(file.num_bytes() <= max_bytes, ErrorKind::kModelFormat, fs::path(path).filename().string(),
        ": expected at most ", max_bytes, " bytes, got ", file.num_bytes());
  const std::string text(file.data(), static_cast<std::size_t>(file.num_bytes()));
  check_is_no_pointer(fs::path(path).filename().string(), text);
  return text;
}

void check_is_no_pointer(const std::string& name, std::string_view content) {
  constexpr std::size_t kMostPointerBytes = 1024;  // by the specification of git-lfs
  const bool pointer = content.size() <= kMostPointerBytes && content.substr(0, 8) == "version " &&
                       content.find("git-lfs") != std::string_view::npos &&
                       content.find("oid sha256:") != std::string_view::npos;
  check(!pointer, ErrorKind::kModelFormat, name,
        ": expected the file itself, got a git-lfs pointer to it: fetch it with \"git lfs pull\"");
}

MappedFile::MappedFile(const std::string& path) {
  // O_NONBLOCK: a pipe that took the file's place since it was checked must not hang the open.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  check(descriptor >= 0, ErrorKind::kModelNotFound, "could not open \"", path, "\": ", std::strerror(errno));
  struct stat status{};
  const bool regular = fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
  void* memory = nullptr;
  if (regular && status.st_size > 0)
    memory = mmap(nullptr, static_cast<std::size_t>(status.st_size), PROT_READ, MAP_PRIVATE, descriptor, 0);
  const int reason = errno;
  close(descriptor);
  check(regular, ErrorKind::kModelFormat, "expected a regular file at \"", path, "\"");
  check(memory != MAP_FAILED, ErrorKind::kOutOfMemory, "could not map \"", path, "\": ", std::strerror(reason));
  data_ = static_cast<const char*>(memory);
  num_bytes_ = status.st_size;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<char*>(data_), static_cast<std::size_t>(num_bytes_));
}

}  // namespace llada
