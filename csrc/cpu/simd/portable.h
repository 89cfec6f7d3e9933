// Sixteen lanes out of the compiler's own vectors, as wide as those of the target. The other instruction sets must
// agree with this definition. Built without flags this is the table `generic`, with the flags of AVX2 and FMA `avx2`,
// with that of AVX-VNNI too `avx2vnni`.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "core/dtype.h"

namespace llada::cpu::LLADA_TABLE {

#if defined(__AVX2__)
constexpr int kPartLanes = 8;
constexpr int kFloatRows = 6;  // 6 x 2 accumulators + 2 columns + 1 row of the 16 registers
#else
constexpr int kPartLanes = 4;
constexpr int kFloatRows = 2;  // 2 x 4 accumulators + 4 columns + 1 row
#endif
constexpr int kLanes = 16;
constexpr int kTileVectors = 1;  // columns of the micro-kernel in units of kLanes
constexpr int kParts = kLanes / kPartLanes;

typedef float Part __attribute__((vector_size(kPartLanes * 4)));
typedef std::uint32_t Bits __attribute__((vector_size(kPartLanes * 4)));
typedef std::int32_t Ints __attribute__((vector_size(kPartLanes * 4)));

struct F32 {
  Part part[kParts];
};
struct I32 {
  Bits part[kParts];  // two's complement: sums may wrap on the way
};

// out.part[i] = function(a.part[i], ...) for each part.
template <class Function, class... Vectors>
LLADA_INLINE F32 each(const Function& function, const Vectors&... v) {
  F32 out;
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) out.part[i] = function(v.part[i]...);
  return out;
}

LLADA_INLINE F32 operator+(F32 a, F32 b) {
  return each([](Part x, Part y) __attribute__((always_inline)) { return x + y; }, a, b);
}
LLADA_INLINE F32 operator-(F32 a, F32 b) {
  return each([](Part x, Part y) __attribute__((always_inline)) { return x - y; }, a, b);
}
LLADA_INLINE F32 operator*(F32 a, F32 b) {
  return each([](Part x, Part y) __attribute__((always_inline)) { return x * y; }, a, b);
}
LLADA_INLINE F32 operator/(F32 a, F32 b) {
  return each([](Part x, Part y) __attribute__((always_inline)) { return x / y; }, a, b);
}
LLADA_INLINE F32 fma(F32 a, F32 b, F32 c) {
  return each([](Part x, Part y, Part z) __attribute__((always_inline)) { return x * y + z; }, a, b, c);
}
LLADA_INLINE F32 max(F32 a, F32 b) {
  return each([](Part x, Part y) __attribute__((always_inline)) { return x > y ? x : y; }, a, b);
}
LLADA_INLINE F32 min(F32 a, F32 b) {
  return each([](Part x, Part y) __attribute__((always_inline)) { return x < y ? x : y; }, a, b);
}

LLADA_INLINE void prefetch(const char* p) { __builtin_prefetch(p, 0, 2); }
LLADA_INLINE F32 set1(float x) {
  F32 v;
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) v.part[i] = Part{} + x;
  return v;
}
LLADA_INLINE F32 zero() { return set1(0.0f); }
LLADA_INLINE F32 load(const float* p) {
  F32 v;
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) std::memcpy(&v.part[i], p + i * kPartLanes, sizeof(Part));
  return v;
}
LLADA_INLINE void store(float* p, F32 v) {
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) std::memcpy(p + i * kPartLanes, &v.part[i], sizeof(Part));
}
// n in [0, 16] lanes; the others are zero.
LLADA_INLINE F32 load_n(const float* p, std::int64_t n) {
  if (n == kLanes) return load(p);
  float lanes[kLanes] = {};
  for (std::int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
LLADA_INLINE void store_n(float* p, F32 v, std::int64_t n) {
  if (n == kLanes) return store(p, v);
  float lanes[kLanes];
  store(lanes, v);
  for (std::int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}

// The sum of the lanes in the order of a halving tree, the same in every table.
LLADA_INLINE float sum(F32 v) {
  float x[kLanes];
  store(x, v);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x[i] += x[i + half];
  return x[0];
}
LLADA_INLINE float max_of(F32 v) {
  float x[kLanes];
  store(x, v);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x[i] = x[i] > x[i + half] ? x[i] : x[i + half];
  return x[0];
}
LLADA_INLINE bool any_nan(F32 v) {
  float x[kLanes];
  store(x, v);
  bool any = false;
  for (int i = 0; i < kLanes; ++i) any |= x[i] != x[i];
  return any;
}

LLADA_INLINE F32 round(F32 x) {
  const F32 big = set1(12582912.0f);  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  return (x + big) - big;
}
// 2^n, n integral and in [-126, 127].
LLADA_INLINE F32 exp2i(F32 n) {
  return each(
      [](Part x) __attribute__((always_inline)) {
        const Ints bits = (__builtin_convertvector(x, Ints) + 127) << 23;
        Part out;
        std::memcpy(&out, &bits, sizeof out);
        return out;
      },
      n);
}

LLADA_INLINE F32 load_bf16_n(const std::uint16_t* p, std::int64_t n) {
  float lanes[kLanes] = {};
  for (std::int64_t i = 0; i < n; ++i) lanes[i] = bf16_to_float(p[i]);
  return load(lanes);
}
LLADA_INLINE void store_bf16_n(std::uint16_t* p, F32 v, std::int64_t n) {
  float lanes[kLanes];
  store(lanes, v);
  for (std::int64_t i = 0; i < n; ++i) p[i] = float_to_bf16(lanes[i]);
}
// Sixteen packs of bfloat16: the low halves from `first`, the high ones from `second`.
LLADA_INLINE void store_bf16_pairs(std::uint32_t* p, F32 first, F32 second) {
  float low[kLanes], high[kLanes];
  store(low, first);
  store(high, second);
  for (int i = 0; i < kLanes; ++i) p[i] = float_to_bf16(low[i]) | std::uint32_t{float_to_bf16(high[i])} << 16;
}
LLADA_INLINE F32 round_bf16(F32 v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int i = 0; i < kLanes; ++i) lanes[i] = bf16_to_float(float_to_bf16(lanes[i]));
  return load(lanes);
}

LLADA_INLINE I32 load(const std::int32_t* p) {
  I32 v;
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) std::memcpy(&v.part[i], p + i * kPartLanes, sizeof(Bits));
  return v;
}
LLADA_INLINE void store(std::int32_t* p, I32 v) {
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) std::memcpy(p + i * kPartLanes, &v.part[i], sizeof(Bits));
}
LLADA_INLINE I32 subtract(I32 a, I32 b) {
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) a.part[i] -= b.part[i];
  return a;
}
LLADA_INLINE F32 to_float(I32 v) {
  F32 out;
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) out.part[i] = __builtin_convertvector((Ints)v.part[i], Part);
  return out;
}

// n bytes: v rounded to integers, ties to even, plus 128. |v| <= 127.
LLADA_INLINE void store_biased(char* p, F32 v, std::int64_t n) {
  float lanes[kLanes];
  store(lanes, v);
  asm("" : "+m"(lanes));  // else a product before this and the sum below may become one fused operation
  for (std::int64_t i = 0; i < n; ++i) p[i] = static_cast<char>(bits_of(lanes[i] + 12582912.0f) + 128u);
}

// to[i][r] = from[r][i] of 16 x 16 packs; rows of `from` are from_step packs apart, those of `to` 16.
LLADA_INLINE void transpose_packs(const std::uint32_t* from, std::int64_t from_step, std::uint32_t* to) {
  for (int i = 0; i < kLanes; ++i)
    for (int r = 0; r < kLanes; ++r) to[i * kLanes + r] = from[r * from_step + i];
}

// One step of a product over 4 bytes of the inner dimension: `a` holds them for one row, `b` for 16 columns.
struct Float32Step {
  using Element = float;
  using Sum = F32;
  static constexpr int kRows = kFloatRows;
  static LLADA_INLINE F32 zero() { return set1(0.0f); }
  static LLADA_INLINE F32 step(F32 acc, const char* a, const char* b) {
    float scalar;
    std::memcpy(&scalar, a, 4);
    return fma(set1(scalar), load(reinterpret_cast<const float*>(b)), acc);
  }
};
struct BFloat16Step {
  using Element = float;
  using Sum = F32;
  static constexpr int kRows = kFloatRows;
  static LLADA_INLINE F32 zero() { return set1(0.0f); }
  static LLADA_INLINE F32 step(F32 acc, const char* a, const char* b) {
    std::uint32_t pair;
    std::memcpy(&pair, a, 4);
    const float low = float_of(pair << 16), high = float_of(pair & 0xffff0000u);
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) {
      Bits pairs;
      std::memcpy(&pairs, b + i * sizeof pairs, sizeof pairs);
      const Bits low_bits = pairs << 16, high_bits = pairs & 0xffff0000u;
      Part low_part, high_part;
      std::memcpy(&low_part, &low_bits, sizeof low_part);
      std::memcpy(&high_part, &high_bits, sizeof high_part);
      acc.part[i] = low_part * low + acc.part[i];
      acc.part[i] = high_part * high + acc.part[i];
    }
    return acc;
  }
};

// a: four bytes from 0 to 255; b: four signed bytes for each column. Products of the even and of the odd ones fit 16
// bits (255 * 127), their sums do not.
struct Int8Step {
  using Element = std::int32_t;
  using Sum = I32;
  static LLADA_INLINE I32 zero() { return I32{}; }
#if defined(__AVXVNNI__)
  static constexpr int kRows = kFloatRows;
  static LLADA_INLINE I32 step(I32 acc, const char* a, const char* b) {
    int four;
    std::memcpy(&four, a, 4);
    const __m256i row = _mm256_set1_epi32(four);
#pragma GCC unroll 2
    for (int i = 0; i < kParts; ++i) {
      const __m256i columns = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b) + i);
      acc.part[i] = (Bits)_mm256_dpbusd_avx_epi32((__m256i)acc.part[i], row, columns);
    }
    return acc;
  }
#elif defined(__AVX2__)
  static constexpr int kRows = 4;  // 4 x 2 accumulators + 4 halves of the columns + 2 of a row
  static LLADA_INLINE I32 step(I32 acc, const char* a, const char* b) {
    int four;
    std::memcpy(&four, a, 4);
    const __m256i row = _mm256_set1_epi32(four);
    const __m256i even_row = _mm256_and_si256(row, _mm256_set1_epi16(255)), odd_row = _mm256_srli_epi16(row, 8);
#pragma GCC unroll 2
    for (int i = 0; i < kParts; ++i) {
      const __m256i columns = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b) + i);
      const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(columns, 8), 8), odd = _mm256_srai_epi16(columns, 8);
      acc.part[i] += (Bits)_mm256_madd_epi16(even, even_row);
      acc.part[i] += (Bits)_mm256_madd_epi16(odd, odd_row);
    }
    return acc;
  }
#else
  static constexpr int kRows = 2;
  typedef std::int16_t Halves __attribute__((vector_size(kPartLanes * 4)));
  static LLADA_INLINE I32 step(I32 acc, const char* a, const char* b) {
    std::uint32_t four;
    std::memcpy(&four, a, 4);
    const Bits row = Bits{} + four;
    const Halves even_row = (Halves)(row & 0x00ff00ffu), odd_row = (Halves)(row >> 8 & 0x00ff00ffu);
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) {
      Bits columns;
      std::memcpy(&columns, b + i * sizeof columns, sizeof columns);
      const Ints even = (Ints)(((Halves)(columns << 8 & 0xff00ff00u) >> 8) * even_row);
      const Ints odd = (Ints)(((Halves)columns >> 8) * odd_row);
      acc.part[i] += (Bits)((Ints)((Bits)even << 16) >> 16) + (Bits)(even >> 16);
      acc.part[i] += (Bits)((Ints)((Bits)odd << 16) >> 16) + (Bits)(odd >> 16);
    }
    return acc;
  }
#endif
};

// 16 columns of four int8 as two packs of bfloat16: exact.
LLADA_INLINE void widen_int8(const char* from, char* first, char* second) {
  std::uint32_t packs[2][kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    std::uint32_t half[4];
    for (int k = 0; k < 4; ++k)
      half[k] = bits_of(static_cast<float>(static_cast<signed char>(from[4 * lane + k]))) >> 16;
    packs[0][lane] = half[0] | half[1] << 16;
    packs[1][lane] = half[2] | half[3] << 16;
  }
  std::memcpy(first, packs[0], sizeof packs[0]);
  std::memcpy(second, packs[1], sizeof packs[1]);
}

// 16 columns of two int4, times the scales of the columns, as one pack of bfloat16; subnormal results are zero.
LLADA_INLINE void widen_int4(const char* from, F32 scales, char* to) {
  float scale[kLanes];
  store(scale, scales);
  std::uint32_t pack[kLanes];
  const auto half = [](float v) __attribute__((always_inline)) {
    const std::uint32_t bits = bits_of(v);
    return (bits & 0x7f800000u) == 0 ? 0u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  };
  for (int lane = 0; lane < kLanes; ++lane) {
    const int two = static_cast<unsigned char>(from[lane]);
    pack[lane] = half(scale[lane] * static_cast<float>((two & 15) - 8)) |
                 half(scale[lane] * static_cast<float>((two >> 4) - 8)) << 16;
  }
  std::memcpy(to, pack, sizeof pack);
}

}  // namespace llada::cpu::LLADA_TABLE
