#include "core/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/check.h"

namespace llada {

std::int64_t Arena::whole_pages(std::int64_t num_bytes) {
  static const std::int64_t page = sysconf(_SC_PAGESIZE);
  return (num_bytes + page - 1) / page * page;
}

namespace {

// Pages cost memory only while they are written, and come back as zeros.
class Pages : public ArenaMemory {
 public:
  char* map(std::int64_t num_bytes) override {
    void* memory = mmap(nullptr, static_cast<std::size_t>(num_bytes), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    check(memory != MAP_FAILED, ErrorKind::kOutOfMemory, "could not reserve ", num_bytes, " bytes for K/V");
    return static_cast<char*>(memory);
  }
  void unmap(char* base, std::int64_t num_bytes) override { munmap(base, static_cast<std::size_t>(num_bytes)); }
  void lend(char*, std::int64_t) override {}
  void take_back(char* piece, std::int64_t num_bytes) override {
    madvise(piece, static_cast<std::size_t>(num_bytes), MADV_DONTNEED);
  }
};

}  // namespace

Arena::Arena(std::int64_t num_bytes, std::unique_ptr<ArenaMemory> memory)
    : num_bytes_(whole_pages(num_bytes)), memory_(memory ? std::move(memory) : std::make_unique<Pages>()) {
  if (num_bytes_ == 0) return;
  base_ = memory_->map(num_bytes_);
  free_.emplace(0, num_bytes_);
}

Arena::~Arena() {
  if (base_ != nullptr) memory_->unmap(base_, num_bytes_);
}

char* Arena::take(std::int64_t num_bytes) {
  const std::int64_t size = whole_pages(num_bytes);
  const auto run = std::find_if(free_.begin(), free_.end(), [&](const auto& free) { return free.second >= size; });
  check(run != free_.end(), ErrorKind::kOutOfMemory, "expected ", size, " bytes of K/V memory in one piece, got ",
        num_bytes_ - used_bytes_, " free of ", num_bytes_);
  const std::int64_t offset = run->first, left = run->second - size;
  free_.erase(run);
  if (left > 0) free_.emplace(offset + size, left);
  used_bytes_ += size;
  memory_->lend(base_ + offset, size);
  return base_ + offset;
}

void Arena::give_back(char* memory, std::int64_t num_bytes) {
  std::int64_t offset = memory - base_, size = whole_pages(num_bytes);
  used_bytes_ -= size;
  memory_->take_back(memory, size);
  const auto next = free_.lower_bound(offset);
  if (next != free_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == offset) {
      offset = before->first;
      size += before->second;
      free_.erase(before);
    }
  }
  if (next != free_.end() && next->first == offset + size) {
    size += next->second;
    free_.erase(next);
  }
  free_.emplace(offset, size);
}

}  // namespace llada
