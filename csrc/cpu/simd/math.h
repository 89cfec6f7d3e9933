// exp and a typed load and store, over the lanes of simd.h.
#pragma once

#include "cpu/simd/simd.h"

namespace llada::cpu::LLADA_TABLE {

// exp(x) for x <= 88: relative error below 3e-7; 0 up to -87.3 and for -inf; a NaN stays one. Cody-Waite reduction,
// then Taylor's polynomial of degree 7 on [-ln 2 / 2, ln 2 / 2], where its remainder is 5e-9: rounding decides the
// error.
LLADA_INLINE F32 exp(F32 x) {
  const F32 clamped = max(x, set1(-87.3f));
  const F32 n = round(clamped * set1(1.44269504088896341f));
  F32 r = fma(n, set1(-0.693359375f), clamped);
  r = fma(n, set1(2.12194440e-4f), r);
  F32 p = set1(1.0f / 5040.0f);
  p = fma(p, r, set1(1.0f / 720.0f));
  p = fma(p, r, set1(1.0f / 120.0f));
  p = fma(p, r, set1(1.0f / 24.0f));
  p = fma(p, r, set1(1.0f / 6.0f));
  p = fma(p, r, set1(0.5f));
  p = fma(p, r, set1(1.0f));
  p = fma(p, r, set1(1.0f));
  // max and min hand on a NaN that is their second operand.
  return p * exp2i(n) * min(set1(1.0f), max(zero(), (x - set1(-87.3f)) * set1(1e30f)));
}

// Fetches n floats into the L2 cache: the hardware doesn't look ahead beyond a page, which is often a row.
LLADA_INLINE void prefetch_floats(const float* x, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += kLanes) prefetch(reinterpret_cast<const char*>(x + i));
}

// Elements [i, i + n) of a row of T, n in [1, 16].
struct Row {
  char* data;
  DType dtype;

  LLADA_INLINE F32 load(std::int64_t i, std::int64_t n) const {
    if (dtype == DType::kFloat32) return load_n(reinterpret_cast<const float*>(data) + i, n);
    return load_bf16_n(reinterpret_cast<const std::uint16_t*>(data) + i, n);
  }
  LLADA_INLINE void store(std::int64_t i, F32 v, std::int64_t n) const {
    if (dtype == DType::kFloat32) return store_n(reinterpret_cast<float*>(data) + i, v, n);
    store_bf16_n(reinterpret_cast<std::uint16_t*>(data) + i, v, n);
  }
};

LLADA_INLINE Row row_of(const void* data, DType dtype, std::int64_t row, std::int64_t cols) {
  return {static_cast<char*>(const_cast<void*>(data)) + row * cols * size_of(dtype), dtype};
}

LLADA_INLINE std::int64_t lanes_left(std::int64_t i, std::int64_t end) { return end - i < kLanes ? end - i : kLanes; }

}  // namespace llada::cpu::LLADA_TABLE
