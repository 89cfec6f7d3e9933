// A row of int8 with its scale, as ops/ops.h defines it.
#pragma once

#include "core/tensor.h"
#include "cpu/simd/math.h"

namespace llada::cpu::LLADA_TABLE {

// get(i, n): lanes [i, i + n) of the row, called twice for each; out: row_bytes(kInt8, cols).
template <class Get>
LLADA_INLINE void quantize_row(std::int64_t cols, const Get& get, char* out) {
  F32 largest = zero(), poison = zero();
  for (std::int64_t i = 0; i < cols; i += kLanes) {
    const F32 v = get(i, lanes_left(i, cols));
    largest = max(largest, max(v, zero() - v));
    poison = fma(v, zero(), poison);  // infinity times 0 is a NaN too
  }
  const float top = max_of(largest);
  const bool usable = top >= 0x1p-100f;
  const float scale = any_nan(poison) ? float_of(0x7fc00000u) : usable ? top / 127.0f : 0.0f;
  const F32 inverse = set1(usable && !any_nan(poison) ? 127.0f / top : 0.0f);
  for (std::int64_t i = 0; i < cols; i += kLanes) {
    const std::int64_t n = lanes_left(i, cols);
    store_biased(out + i, get(i, n) * inverse, n);
  }
  std::memcpy(out + row_bytes(DType::kInt8, cols) - 4, &scale, 4);
}

}  // namespace llada::cpu::LLADA_TABLE
