#include "core/arena.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/check.h"
#include "core/pages.h"

namespace llada {

namespace {

// Pages cost memory only while they are written, and come back as zeros.
class Pages : public ArenaMemory {
 public:
  char* map(std::int64_t num_bytes) override {
    char* memory = map_pages(num_bytes);
    check(memory != nullptr, ErrorKind::kOutOfMemory, "could not reserve ", num_bytes, " bytes for K/V");
    return memory;
  }
  void unmap(char* base, std::int64_t num_bytes) override { unmap_pages(base, num_bytes); }
  void lend(char* piece, std::int64_t num_bytes) override { prefer_huge_pages(piece, num_bytes); }
  void take_back(char* piece, std::int64_t num_bytes) override { return_pages(piece, num_bytes); }
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
