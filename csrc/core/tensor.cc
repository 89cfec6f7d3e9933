#include "core/tensor.h"

#include <cstdlib>
#include <cstring>

#include "core/check.h"

namespace llada {

Buffer::Buffer(std::int64_t num_bytes, bool zero) : num_bytes_(num_bytes) {
  constexpr std::size_t kAlignment = 64;
  const std::size_t size = (static_cast<std::size_t>(num_bytes) + kAlignment - 1) / kAlignment * kAlignment;
  if (size == 0) return;
  memory_.reset(static_cast<char*>(std::aligned_alloc(kAlignment, size)));
  check(memory_ != nullptr, ErrorKind::kOutOfMemory, "could not allocate ", num_bytes, " bytes");
  if (zero) std::memset(memory_.get(), 0, size);
}

void Buffer::reserve(std::int64_t num_bytes) {
  if (num_bytes > num_bytes_) {
    *this = Buffer();  // free first: the old content is not kept
    *this = Buffer(num_bytes);
  }
}

void Buffer::Free::operator()(char* memory) const { std::free(memory); }

}  // namespace llada
