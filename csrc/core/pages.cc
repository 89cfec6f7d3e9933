#include "core/pages.h"

#include <sys/mman.h>
#include <unistd.h>

namespace llada {

std::int64_t whole_pages(std::int64_t num_bytes) {
  static const std::int64_t page = sysconf(_SC_PAGESIZE);
  return (num_bytes + page - 1) / page * page;
}

char* map_pages(std::int64_t num_bytes) {
  // The system aligns to small pages: one huge page more, and what sticks out goes back.
  const std::int64_t size = whole_pages(num_bytes), mapped = size + kHugePageBytes;
  void* memory = mmap(nullptr, static_cast<std::size_t>(mapped), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(memory);
  const std::int64_t past = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(begin) % kHugePageBytes);
  const std::int64_t before = past == 0 ? 0 : kHugePageBytes - past;
  if (before > 0) munmap(begin, static_cast<std::size_t>(before));
  if (mapped > before + size) munmap(begin + before + size, static_cast<std::size_t>(mapped - before - size));
  return begin + before;
}

void unmap_pages(char* memory, std::int64_t num_bytes) {
  munmap(memory, static_cast<std::size_t>(whole_pages(num_bytes)));
}

void prefer_huge_pages(char* memory, std::int64_t num_bytes) {
#if defined(MADV_HUGEPAGE)
  const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(memory);
  const std::uintptr_t first = (begin + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  const std::uintptr_t end = (begin + static_cast<std::uintptr_t>(num_bytes)) / kHugePageBytes * kHugePageBytes;
  if (end > first) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#else
  static_cast<void>(memory), static_cast<void>(num_bytes);
#endif
}

void return_pages(char* memory, std::int64_t num_bytes) {
  madvise(memory, static_cast<std::size_t>(whole_pages(num_bytes)), MADV_DONTNEED);
}

}  // namespace llada
