// Address space that is reserved once and lent in pieces. A page costs memory only while the page is lent and written:
// fresh pages are zeros, and a piece that comes back returns its pages to the system at once.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace llada {

// Where the bytes of an arena are, if they are not the process's own.
class ArenaMemory {
 public:
  virtual ~ArenaMemory() = default;
  virtual char* map(std::int64_t num_bytes) = 0;
  virtual void unmap(char* base, std::int64_t num_bytes) = 0;
  virtual void lend(char* piece, std::int64_t num_bytes) = 0;  // makes it zeros
  virtual void take_back(char* piece, std::int64_t num_bytes) noexcept = 0;
};

class Arena {
 public:
  // Throws OutOfMemory if the system, or `memory`, refuses them.
  explicit Arena(std::int64_t num_bytes, std::unique_ptr<ArenaMemory> memory = nullptr);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Zeroed memory, aligned to a page. Throws OutOfMemory, with the numbers, if no free run is long enough.
  char* take(std::int64_t num_bytes);
  // `memory` is what take(num_bytes) returned. Allocates nothing: what frees memory must work when there is none.
  void give_back(char* memory, std::int64_t num_bytes) noexcept;

  std::int64_t num_bytes() const { return num_bytes_; }
  std::int64_t used_bytes() const { return used_bytes_; }

 private:
  const std::int64_t num_bytes_;
  std::int64_t used_bytes_ = 0;
  const std::unique_ptr<ArenaMemory> memory_;
  char* base_ = nullptr;
  struct Run {
    std::int64_t offset;
    std::int64_t num_bytes;
  };
  std::vector<Run> free_;  // by offset; no two of them touch. Has room for one more than there are pieces lent
  std::size_t num_lent_ = 0;
};

}  // namespace llada
