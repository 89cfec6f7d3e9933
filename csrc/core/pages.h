// Memory straight from the system. Where the system offers huge pages (2 MiB in place of 4 KiB), large pieces take
// them: a first touch and an address translation cost once for 512 pages.
#pragma once

#include <cstdint>

namespace llada {

constexpr std::int64_t kHugePageBytes = std::int64_t{2} << 20;

// The bytes of `num_bytes` in whole pages.
std::int64_t whole_pages(std::int64_t num_bytes);

// Zeroed address space that begins at a huge page, or nullptr if the system refuses it. A page costs memory only once
// it is written. num_bytes > 0.
char* map_pages(std::int64_t num_bytes);
void unmap_pages(char* memory, std::int64_t num_bytes);

// Asks for huge pages where they lie wholly within the piece, so that it takes no more memory than with small ones.
void prefer_huge_pages(char* memory, std::int64_t num_bytes);

// Gives the memory of whole pages back; they stay mapped and read as zeros.
void return_pages(char* memory, std::int64_t num_bytes);

}  // namespace llada
