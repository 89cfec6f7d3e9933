#include "core/tensor.h"

#include <cstdlib>
#include <cstring>

#include "core/check.h"
#include "core/pages.h"

namespace llada {
namespace {

bool has_own_pages(std::int64_t num_bytes) { return num_bytes >= kHugePageBytes; }

}  // namespace

Buffer::Buffer(std::int64_t num_bytes, bool zero) : memory_(nullptr, Free{num_bytes}), num_bytes_(num_bytes) {
  constexpr std::size_t kAlignment = 64;
  const std::size_t size = (static_cast<std::size_t>(num_bytes) + kAlignment - 1) / kAlignment * kAlignment;
  if (size == 0) return;
  const bool pages = has_own_pages(num_bytes);
  memory_.reset(pages ? map_pages(num_bytes) : static_cast<char*>(std::aligned_alloc(kAlignment, size)));
  check(memory_ != nullptr, ErrorKind::kOutOfMemory, "could not allocate ", num_bytes, " bytes");
  if (pages)
    prefer_huge_pages(memory_.get(), num_bytes);
  else if (zero)
    std::memset(memory_.get(), 0, size);
}

void Buffer::reserve(std::int64_t num_bytes) {
  if (num_bytes > num_bytes_) {
    *this = Buffer();  // free first: the old content is not kept
    *this = Buffer(num_bytes);
  }
}

void Buffer::Free::operator()(char* memory) const {
  if (has_own_pages(num_bytes))
    unmap_pages(memory, num_bytes);
  else
    std::free(memory);
}

}  // namespace llada
