// Element types and the conversions between them. Everything is force-inlined: these functions are compiled into files
// with different instruction sets, and the linker must never pick one file's copy for another.
#pragma once

#include <cstdint>
#include <cstring>

#define LLADA_INLINE inline __attribute__((always_inline))

namespace llada {

// kInt4: two values in a byte, each plus 8, the first one in the low half.
enum class DType : std::int32_t { kFloat32, kBFloat16, kFloat16, kInt8, kInt4 };

LLADA_INLINE bool is_float(DType dtype) { return dtype != DType::kInt8 && dtype != DType::kInt4; }

// Of one element; an int4 has none of its own.
LLADA_INLINE std::int64_t size_of(DType dtype) { return dtype == DType::kFloat32 ? 4 : is_float(dtype) ? 2 : 1; }

// Of `count` elements in a row.
LLADA_INLINE std::int64_t bytes_of(DType dtype, std::int64_t count) {
  return dtype == DType::kInt4 ? (count + 1) / 2 : count * size_of(dtype);
}

LLADA_INLINE const char* name_of(DType dtype) {
  constexpr const char* kNames[] = {"float32", "bfloat16", "float16", "int8", "int4"};
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

}  // namespace llada
