// Counter-based random numbers: a draw is a pure function of (seed, step, position, token, stream), so it does not
// depend on the batch, on the order of the work or on the device.
// Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace llada {

enum RandomStream : std::uint32_t { kGumbelStream = 0, kConfidenceStream = 1 };

struct Philox {
  std::uint32_t word[4];
};

LLADA_INLINE Philox philox4x32_10(std::uint64_t key, std::uint32_t c0, std::uint32_t c1, std::uint32_t c2,
                                  std::uint32_t c3) {
  std::uint32_t k0 = static_cast<std::uint32_t>(key);
  std::uint32_t k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = 0xD2511F53ull * c0;
    const std::uint64_t p1 = 0xCD9E8D57ull * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(p1);
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// 53 random bits to the open interval (0, 1): neither end occurs, so log(-log(u)) is finite. The half of the largest
// value would round it up to 1.
LLADA_INLINE constexpr double open_unit(std::uint64_t bits) {
  const double u = (static_cast<double>(bits) + 0.5) * 0x1p-53;
  return u < 1.0 ? u : 1.0 - 0x1p-53;
}
static_assert(open_unit(0) > 0.0 && open_unit(~std::uint64_t{0} >> 11) < 1.0);

LLADA_INLINE double uniform(std::uint64_t seed, std::int32_t token, std::int32_t position, std::int32_t step,
                            RandomStream stream) {
  const Philox r = philox4x32_10(seed, static_cast<std::uint32_t>(token), static_cast<std::uint32_t>(position),
                                 static_cast<std::uint32_t>(step), stream);
  return open_unit((static_cast<std::uint64_t>(r.word[0]) << 32 | r.word[1]) >> 11);
}

}  // namespace llada
