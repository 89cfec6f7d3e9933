// The half-split rotation of a head by the angles of its position.
#pragma once

#include "cpu/simd/math.h"

namespace llada::cpu::LLADA_TABLE {

// Rotates one head: out[i] = x1 cos - x2 sin, out[half + i] = x2 cos + x1 sin, handed to put(i, lanes, n).
template <class Put>
LLADA_INLINE void rotate(const float* x, const float* angle, std::int64_t head_dim, const Put& put) {
  const std::int64_t half = head_dim / 2;
  for (std::int64_t i = 0; i < half; i += kLanes) {
    const std::int64_t n = lanes_left(i, half);
    const F32 x1 = load_n(x + i, n), x2 = load_n(x + half + i, n);
    const F32 cos = load_n(angle + i, n), sin = load_n(angle + half + i, n);
    put(i, x1 * cos - x2 * sin, n);
    put(half + i, x2 * cos + x1 * sin, n);
  }
}

}  // namespace llada::cpu::LLADA_TABLE
