// Sixteen lanes out of the compiler's own vectors, as wide as the target has them: the definition that the other
// instruction sets must agree with. Built without flags it is the `generic` table, with AVX2 and FMA flags the `avx2`
// one.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/dtype.h"

namespace llada::cpu::LLADA_TABLE {

#if defined(__AVX2__)
constexpr int kPartLanes = 8;
constexpr int kTileRows = 6;  // 6 x 2 accumulators + 2 columns + 1 row of the 16 registers
#else
constexpr int kPartLanes = 4;
constexpr int kTileRows = 2;  // 2 x 4 accumulators + 4 columns + 1 row
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
LLADA_INLINE double sum_double(F32 v) {
  float lanes[kLanes];
  store(lanes, v);
  double x[8];
  for (int i = 0; i < 8; ++i) x[i] = static_cast<double>(lanes[i]) + static_cast<double>(lanes[i + 8]);
  for (int half = 4; half > 0; half /= 2)
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
LLADA_INLINE F32 round_bf16(F32 v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int i = 0; i < kLanes; ++i) lanes[i] = bf16_to_float(float_to_bf16(lanes[i]));
  return load(lanes);
}

// One step of a product over 4 bytes of the inner dimension: `a` holds them for one row, `b` for 16 columns.
struct Float32Step {
  static LLADA_INLINE F32 step(F32 acc, const char* a, const char* b) {
    float scalar;
    std::memcpy(&scalar, a, 4);
    return fma(set1(scalar), load(reinterpret_cast<const float*>(b)), acc);
  }
};
struct BFloat16Step {
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

}  // namespace llada::cpu::LLADA_TABLE
