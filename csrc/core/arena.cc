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
  void take_back(char* piece, std::int64_t num_bytes) noexcept override { return_pages(piece, num_bytes); }
};

}  // namespace

Arena::Arena(std::int64_t num_bytes, std::unique_ptr<ArenaMemory> memory)
    : num_bytes_(whole_pages(num_bytes)), memory_(memory ? std::move(memory) : std::make_unique<Pages>()) {
  if (num_bytes_ == 0) return;
  free_.push_back({0, num_bytes_});  // first: if this fails, nothing has been mapped
  base_ = memory_->map(num_bytes_);
}

Arena::~Arena() {
  if (base_ != nullptr) memory_->unmap(base_, num_bytes_);
}

char* Arena::take(std::int64_t num_bytes) {
  const std::int64_t size = whole_pages(num_bytes);
  const auto is_enough = [size](const Run& run) { return run.num_bytes >= size; };
  check(std::any_of(free_.begin(), free_.end(), is_enough), ErrorKind::kOutOfMemory, "expected ", size,
        " bytes of K/V memory in one piece, got ", num_bytes_ - used_bytes_, " free of ", num_bytes_);
  free_.reserve(num_lent_ + 2);  // all that can fail comes before anything has changed
  const auto run = std::find_if(free_.begin(), free_.end(), is_enough);
  const std::int64_t offset = run->offset;
  memory_->lend(base_ + offset, size);
  run->offset += size;
  run->num_bytes -= size;
  if (run->num_bytes == 0) free_.erase(run);
  used_bytes_ += size;
  ++num_lent_;
  return base_ + offset;
}

void Arena::give_back(char* memory, std::int64_t num_bytes) noexcept {
  const Run back{memory - base_, whole_pages(num_bytes)};
  used_bytes_ -= back.num_bytes;
  --num_lent_;
  memory_->take_back(memory, back.num_bytes);
  const auto touch = [](const Run& a, const Run& b) { return a.offset + a.num_bytes == b.offset; };
  const auto next = std::lower_bound(free_.begin(), free_.end(), back.offset,
                                     [](const Run& run, std::int64_t offset) { return run.offset < offset; });
  const bool joins_next = next != free_.end() && touch(back, *next);
  if (next != free_.begin() && touch(*std::prev(next), back)) {
    const auto before = std::prev(next);
    before->num_bytes += back.num_bytes + (joins_next ? next->num_bytes : 0);
    if (joins_next) free_.erase(next);
  } else if (joins_next) {
    next->offset = back.offset;
    next->num_bytes += back.num_bytes;
  } else {
    free_.insert(next, back);  // within the room that `take` has made
  }
}

}  // namespace llada
