// Element types, and conversions from one to another. Everything is force-inlined: these functions are compiled into
// files with different instruction sets, and the linker must never pick one file's copy for another.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define LLADA_INLINE __host__ __device__ __forceinline__
#else
#define LLADA_INLINE inline __attribute__((always_inline))
#endif

namespace llada {

// kInt4: two values in a byte, each plus 8, the first one in the low half. kFloat8: e4m3 (4 bits of exponent, 3 of
// mantissa, largest 448, no infinity), beside a scale.
enum class DType : std::int32_t { kFloat32, kBFloat16, kFloat16, kInt8, kInt4, kFloat8 };

// Not those that need a scale.
LLADA_INLINE bool is_float(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kBFloat16 || dtype == DType::kFloat16;
}

// Bytes of one element; an int4 has none of its own.
LLADA_INLINE std::int64_t size_of(DType dtype) { return dtype == DType::kFloat32 ? 4 : is_float(dtype) ? 2 : 1; }

// Bytes of `count` elements in a row.
LLADA_INLINE std::int64_t bytes_of(DType dtype, std::int64_t count) {
  return dtype == DType::kInt4 ? (count + 1) / 2 : count * size_of(dtype);
}

LLADA_INLINE const char* name_of(DType dtype) {
  constexpr const char* kNames[] = {"float32", "bfloat16", "float16", "int8", "int4", "float8"};
  return kNames[static_cast<int>(dtype)];
}

LLADA_INLINE std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

LLADA_INLINE float float_of(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

LLADA_INLINE float bf16_to_float(std::uint16_t value) { return float_of(static_cast<std::uint32_t>(value) << 16); }

// Round to nearest, ties to even; a NaN stays a NaN.
LLADA_INLINE std::uint16_t float_to_bf16(float value) {
  const std::uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

LLADA_INLINE float f16_to_float(std::uint16_t value) {
  const std::uint32_t sign = static_cast<std::uint32_t>(value & 0x8000u) << 16;
  const std::uint32_t magnitude = value & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_of(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Scaling by 2^112 moves the exponent bias from 15 to 127 and normalises subnormals on the way.
  return float_of(sign | bits_of(float_of(magnitude << 13) * float_of(0x77800000u)));
}

LLADA_INLINE float float8_to_float(std::uint8_t value) {
  const std::uint32_t magnitude = value & 0x7fu, sign = static_cast<std::uint32_t>(value & 0x80u) << 24;
  if (magnitude == 0x7fu) return float_of(sign | 0x7fc00000u);
  // Scaling by 2^120 moves the exponent bias from 7 to 127 and normalises subnormals on the way.
  return float_of(sign | bits_of(float_of(magnitude << 20) * float_of(0x7b800000u)));
}

// Round to nearest, ties to even; what is larger than 448 becomes 448; a NaN stays a NaN.
LLADA_INLINE std::uint8_t float_to_float8(float value) {
  const std::uint32_t bits = bits_of(value), magnitude = bits & 0x7fffffffu, sign = bits >> 24 & 0x80u;
  if (magnitude > 0x7f800000u) return static_cast<std::uint8_t>(sign | 0x7fu);
  std::uint32_t rounded;
  if (magnitude < 0x3c800000u)  // 2^-6: below it multiples of 2^-9, which adding 2^14 leaves in the low bits
    rounded = bits_of(float_of(magnitude) + 16384.0f) - 0x46800000u;
  else
    rounded = ((magnitude + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20) - (120u << 3);
  return static_cast<std::uint8_t>(sign | (rounded < 0x7eu ? rounded : 0x7eu));
}

}  // namespace llada
