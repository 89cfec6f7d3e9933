// AVX-512: a lane vector is one register. With VNNI an int8 product step is one dpbusd instruction, with BF16 a
// bfloat16 product step is one dpbf16.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "core/dtype.h"

namespace llada::cpu::LLADA_TABLE {

constexpr int kLanes = 16;
constexpr int kTileVectors = 4;

typedef __m512 F32;
// Not __m512i, which may alias anything: the compiler would keep arrays of it in memory.
typedef std::int32_t I32 __attribute__((vector_size(64)));

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

LLADA_INLINE I32 load(const std::int32_t* p) { return (I32)_mm512_loadu_si512(p); }
LLADA_INLINE void store(std::int32_t* p, I32 v) { _mm512_storeu_si512(p, (__m512i)v); }
LLADA_INLINE I32 subtract(I32 a, I32 b) { return (I32)_mm512_sub_epi32((__m512i)a, (__m512i)b); }
LLADA_INLINE F32 to_float(I32 v) { return _mm512_cvtepi32_ps((__m512i)v); }

LLADA_INLINE float sum(F32 v) { return _mm512_reduce_add_ps(v); }
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
// Sixteen packs of bfloat16: the low halves from `first`, the high ones from `second`.
LLADA_INLINE void store_bf16_pairs(std::uint32_t* p, F32 first, F32 second) {
  const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow(second)), 16);
  _mm512_storeu_si512(p, _mm512_or_si512(_mm512_cvtepu16_epi32(narrow(first)), high));
}
LLADA_INLINE F32 round_bf16(F32 v) { return widen(narrow(v)); }

// n bytes: v rounded to integers, ties to even, plus 128. |v| <= 127.
LLADA_INLINE void store_biased(char* p, F32 v, std::int64_t n) {
  const __m512i values = _mm512_add_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32(128));
  _mm512_mask_cvtepi32_storeu_epi8(p, lanes(n), values);
}

// to[i][r] = from[r][i] of 16 x 16 packs; rows of `from` are from_step packs apart, those of `to` 16. Each round of the
// network swaps blocks half as large: quarters of a register, then pairs of packs, then packs.
LLADA_INLINE void transpose_packs(const std::uint32_t* from, std::int64_t from_step, std::uint32_t* to) {
  __m512i a[kLanes], b[kLanes];
#pragma GCC unroll 16
  for (int r = 0; r < kLanes; ++r) a[r] = _mm512_loadu_si512(from + r * from_step);
#pragma GCC unroll 8
  for (int r = 0; r < kLanes; r += 2) {
    b[r] = _mm512_unpacklo_epi32(a[r], a[r + 1]);
    b[r + 1] = _mm512_unpackhi_epi32(a[r], a[r + 1]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < kLanes; r += 4) {  // a[r + i]: column 4 q + i of rows r to r + 3 in its quarter q
    a[r] = _mm512_unpacklo_epi64(b[r], b[r + 2]);
    a[r + 1] = _mm512_unpackhi_epi64(b[r], b[r + 2]);
    a[r + 2] = _mm512_unpacklo_epi64(b[r + 1], b[r + 3]);
    a[r + 3] = _mm512_unpackhi_epi64(b[r + 1], b[r + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i low02 = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x88),
                  low13 = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xdd);
    const __m512i high02 = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x88);
    const __m512i high13 = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xdd);
    _mm512_storeu_si512(to + i * kLanes, _mm512_shuffle_i32x4(low02, high02, 0x88));
    _mm512_storeu_si512(to + (4 + i) * kLanes, _mm512_shuffle_i32x4(low13, high13, 0x88));
    _mm512_storeu_si512(to + (8 + i) * kLanes, _mm512_shuffle_i32x4(low02, high02, 0xdd));
    _mm512_storeu_si512(to + (12 + i) * kLanes, _mm512_shuffle_i32x4(low13, high13, 0xdd));
  }
}

struct Float32Step {
  using Element = float;
  using Sum = F32;
  static constexpr int kRows = 6;  // 6 x 4 accumulators + 4 columns + 1 row of the 32 registers
  static LLADA_INLINE F32 zero() { return _mm512_setzero_ps(); }
  static LLADA_INLINE F32 step(F32 acc, const char* a, const char* b) {
    float scalar;
    std::memcpy(&scalar, a, 4);
    return _mm512_fmadd_ps(_mm512_set1_ps(scalar), _mm512_loadu_ps(b), acc);
  }
};

struct BFloat16Step {
  using Element = float;
  using Sum = F32;
  static LLADA_INLINE F32 zero() { return _mm512_setzero_ps(); }
#if defined(__AVX512BF16__)
  static constexpr int kRows = 6;
  static LLADA_INLINE F32 step(F32 acc, const char* a, const char* b) {
    int pair;
    std::memcpy(&pair, a, 4);
    return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)_mm512_loadu_si512(b));
  }
#else
  static constexpr int kRows = 5;  // 5 x 4 accumulators + 8 halves of the columns + 2 of a row
  static LLADA_INLINE F32 step(F32 acc, const char* a, const char* b) {
    std::uint32_t pair;
    std::memcpy(&pair, a, 4);
    const __m512i pairs = _mm512_loadu_si512(b);
    const F32 low = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    const F32 high = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
    acc = _mm512_fmadd_ps(_mm512_set1_ps(float_of(pair << 16)), low, acc);
    return _mm512_fmadd_ps(_mm512_set1_ps(float_of(pair & 0xffff0000u)), high, acc);
  }
#endif
};

// a: four bytes from 0 to 255; b: four signed bytes for each column.
struct Int8Step {
  using Element = std::int32_t;
  using Sum = I32;
  static LLADA_INLINE I32 zero() { return I32{}; }
#if defined(__AVX512VNNI__)
  static constexpr int kRows = 6;
  static LLADA_INLINE I32 step(I32 acc, const char* a, const char* b) {
    int four;
    std::memcpy(&four, a, 4);
    return (I32)_mm512_dpbusd_epi32((__m512i)acc, _mm512_set1_epi32(four), _mm512_loadu_si512(b));
  }
#else
  static constexpr int kRows = 4;  // 4 x 4 accumulators + 8 halves of the columns + 2 of a row + 2 of products
  // Products of the even bytes and of the odd ones fit 16 bits (255 * 127), sums of all four do not.
  static LLADA_INLINE I32 step(I32 acc, const char* a, const char* b) {
    int four;
    std::memcpy(&four, a, 4);
    const __m512i row = _mm512_set1_epi32(four), columns = _mm512_loadu_si512(b);
    const __m512i even_row = _mm512_and_si512(row, _mm512_set1_epi16(255)), odd_row = _mm512_srli_epi16(row, 8);
    const __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(columns, 8), 8), odd = _mm512_srai_epi16(columns, 8);
    const __m512i products = _mm512_add_epi32(_mm512_madd_epi16(even, even_row), _mm512_madd_epi16(odd, odd_row));
    return (I32)_mm512_add_epi32((__m512i)acc, products);
  }
#endif
};

// 16 columns of four int8 as two packs of bfloat16: exact, so the low halves of the floats are zero.
LLADA_INLINE void widen_int8(const char* from, char* first, char* second) {
  const __m512i four = _mm512_loadu_si512(from);
  const auto wide = [](__m512i v) __attribute__((always_inline)) {
    return _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_srai_epi32(v, 24)));
  };
  const __m512i k0 = wide(_mm512_slli_epi32(four, 24)), k1 = wide(_mm512_slli_epi32(four, 16));
  const __m512i k2 = wide(_mm512_slli_epi32(four, 8)), k3 = wide(four);
  _mm512_storeu_si512(first, _mm512_or_si512(_mm512_srli_epi32(k0, 16), k1));
  _mm512_storeu_si512(second, _mm512_or_si512(_mm512_srli_epi32(k2, 16), k3));
}

// 16 columns of two int4, times the scales of the columns, as one pack of bfloat16; subnormal results are zero.
LLADA_INLINE void widen_int4(const char* from, F32 scales, char* to) {
  const __m512 values = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
  const __m512i pairs = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  // The permutation reads the low four bits of each lane.
  const F32 first = scales * _mm512_permutexvar_ps(pairs, values);
  const F32 second = scales * _mm512_permutexvar_ps(_mm512_srli_epi32(pairs, 4), values);
#if defined(__AVX512BF16__)
  const __m256i low = (__m256i)_mm512_cvtneps_pbh(first), high = (__m256i)_mm512_cvtneps_pbh(second);
#else
  const auto flushed = [](F32 v) __attribute__((always_inline)) {
    const __mmask16 normal = _mm512_cmp_ps_mask(_mm512_abs_ps(v), _mm512_set1_ps(0x1p-126f), _CMP_GE_OQ);
    return _mm512_maskz_mov_ps(normal, v);
  };
  const __m256i low = narrow(flushed(first)), high = narrow(flushed(second));
#endif
  const __m512i halves = _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16);
  _mm512_storeu_si512(to, _mm512_or_si512(halves, _mm512_cvtepu16_epi32(low)));
}

}  // namespace llada::cpu::LLADA_TABLE
