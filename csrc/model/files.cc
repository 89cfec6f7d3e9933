#include "model/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "core/check.h"
#include "core/text.h"

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
  check(!error, ErrorKind::kModelNotFound, "expected a model folder, got nothing at \"", excerpt(folder), "\" (",
        error.message(), ")");
  check(fs::is_directory(path, error), ErrorKind::kModelNotFound, "expected a model folder, got a file at \"",
        excerpt(folder), "\"");
  return path;
}

}  // namespace

std::string resolve_model_file(const std::string& folder, const std::string& name) {
  const fs::path root = real_folder(folder);
  const bool plain = !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
                     name.find('\0') == std::string::npos;
  check(plain, ErrorKind::kModelFormat, "expected the name of a file in the model folder, got \"", excerpt(name), "\"");
  std::error_code error;
  const fs::path path = fs::canonical(root / name, error);
  check(!error, ErrorKind::kModelNotFound, "expected the file ", excerpt(name), " in \"", excerpt(folder), "\" (",
        error.message(), ")");
  const bool hub_cache = root.parent_path().filename() == "snapshots";
  check(is_inside(path, root) || (hub_cache && is_inside(path, root.parent_path().parent_path() / "blobs")),
        ErrorKind::kModelFormat, excerpt(name), ": expected a file in the model folder, got a link that leaves it");
  check(fs::is_regular_file(path, error), ErrorKind::kModelFormat, excerpt(name),
        ": expected a regular file, got a folder, pipe or device");
  return path.string();
}

bool model_file_exists(const std::string& folder, const std::string& name) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(real_folder(folder) / name, error);
  return fs::exists(status);
}

std::string read_text_file(const std::string& path, std::int64_t max_bytes) {
  const ModelFile file(path);
  const std::string name = excerpt(fs::path(path).filename().string());
  check(file.num_bytes() <= max_bytes, ErrorKind::kModelFormat, name, ": expected at most ", max_bytes, " bytes, got ",
        file.num_bytes());
  std::string text(static_cast<std::size_t>(file.num_bytes()), '\0');
  file.read(0, file.num_bytes(), text.data());
  check_is_no_pointer(name, text);
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

ModelFile::ModelFile(const std::string& path) : name_(excerpt(fs::path(path).filename().string())) {
  // O_NONBLOCK: a pipe that took the file's place since it was checked must not hang the open.
  descriptor_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) {
    const int reason = errno;
    const bool is_gone = reason == ENOENT || reason == ENOTDIR;
    const bool is_short = reason == EMFILE || reason == ENFILE || reason == ENOMEM;
    fail(is_gone    ? ErrorKind::kModelNotFound
         : is_short ? ErrorKind::kOutOfMemory
                    : ErrorKind::kModelFormat,
         name_, ": expected a file that can be opened: ", std::strerror(reason));
  }
  struct stat status{};
  const bool regular = fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode);
  if (!regular) {
    close(descriptor_);
    fail(ErrorKind::kModelFormat, name_, ": expected a regular file");
  }
  num_bytes_ = status.st_size;
}

ModelFile::~ModelFile() { close(descriptor_); }

void ModelFile::read(std::int64_t offset, std::int64_t num_bytes, char* to) const {
  constexpr std::int64_t kMostAtOnce = std::int64_t{1} << 30;
  const std::int64_t end = offset + num_bytes;
  while (offset < end) {
    const ssize_t got = pread(descriptor_, to, static_cast<std::size_t>(std::min(end - offset, kMostAtOnce)), offset);
    if (got < 0 && errno == EINTR) continue;
    check(got >= 0, ErrorKind::kModelFormat, name_, ": expected a file that can be read: ", std::strerror(errno));
    check(got > 0, ErrorKind::kModelFormat, name_, ": expected data up to byte ", end, ", got the end of the file at ",
          offset, " (it was shortened while it was read)");
    offset += got;
    to += got;
  }
}

}  // namespace llada
