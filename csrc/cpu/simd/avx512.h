// AVX-512 with BF16: a lane vector is one register, a bfloat16 product step one dpbf16 instruction.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "core/dtype.h"

namespace llada::cpu::LLADA_TABLE {

constexpr int kLanes = 16;
constexpr int kTileRows = 6;  // 6 x 4 accumulators + 4 columns + 1 row of the 32 registers
constexpr int kTileVectors = 4;

typedef __m512 F32;

LLADA_INLINE void prefetch(const char* p) { _mm_prefetch(p, _MM_HINT_T1); }
LLADA_INLINE __mmask16 lanes(std::int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }

LLADA_INLINE F32 set1(float x) { return _mm512_set1_ps(x); }
LLADA_INLINE F32 zero() { return _mm512_setzero_ps(); }
LLADA_INLINE F32 load(const float* p) { return _mm512_loadu_ps(p); }
LLADA_INLINE void store(float* p, F32 v) { _mm512_storeu_ps(p, v); }
LLADA_INLINE F32 load_n(const float* p, std::int64_t n) { return _mm512_maskz_loadu_ps(lanes(n), p); }
LLADA_INLINE void store_n(float* p, F32 v, std::int64_t n) { _mm512_mask_storeu_ps(p, lanes(n), v); }
LLADA_INLINE F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
LLADA_INLINE F32 max(F32 a, F32 b) { return _mm512_max_ps(a, b); }
LLADA_INLINE F32 min(F32 a, F32 b) { return _mm512_min_ps(a, b); }
LLADA_INLINE bool any_nan(F32 v) { return _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q) != 0; }

LLADA_INLINE float sum(F32 v) { return _mm512_reduce_add_ps(v); }
LLADA_INLINE double sum_double(F32 v) {
  const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
  const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
  return _mm512_reduce_add_pd(_mm512_add_pd(low, high));
}
LLADA_INLINE float max_of(F32 v) { return _mm512_reduce_max_ps(v); }

LLADA_INLINE F32 round(F32 x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
LLADA_INLINE F32 exp2i(F32 n) { return _mm512_scalef_ps(_mm512_set1_ps(1.0f), n); }

LLADA_INLINE F32 widen(__m256i bf16) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16)); }
// Integer rounding instead of vcvtneps2bf16: that instruction flushes subnormals, the portable definition does not.
LLADA_INLINE __m256i narrow(F32 v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
}
LLADA_INLINE F32 load_bf16_n(const std::uint16_t* p, std::int64_t n) {
  return widen(_mm256_maskz_loadu_epi16(lanes(n), p));
}
LLADA_INLINE void store_bf16_n(std::uint16_t* p, F32 v, std::int64_t n) {
  _mm256_mask_storeu_epi16(p, lanes(n), narrow(v));
}
LLADA_INLINE F32 round_bf16(F32 v) { return widen(narrow(v)); }

struct Float32Step {
  static LLADA_INLINE F32 step(F32 acc, const char* a, const char* b) {
    float scalar;
    std::memcpy(&scalar, a, 4);
    return _mm512_fmadd_ps(_mm512_set1_ps(scalar), _mm512_loadu_ps(b), acc);
  }
};
struct BFloat16Step {
  static LLADA_INLINE F32 step(F32 acc, const char* a, const char* b) {
    int pair;
    std::memcpy(&pair, a, 4);
    return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)_mm512_loadu_si512(b));
  }
};

}  // namespace llada::cpu::LLADA_TABLE
