// What a matmul multiplies: how a stage of rows and weights in shared memory becomes fragments and sums. A stage is
// kDepth groups deep; a group is 128 bytes of a row of x, whatever its type.
//
// Sums of an output run over its inputs in ascending order, a step of an instruction at a time, whatever the tile: a
// row gets the same bits in each of them.
#pragma once

#include "cuda/device/instructions.cuh"

namespace llada::cuda {

// A part of a stage that one warp multiplies: rows of x and rows of the weight (outputs), with steps in bytes.
struct StagePart {
  const char* x;
  const char* weight;
  const char* scales;  // int4: of the groups of 32 inputs, (outputs, 2 kDepth) float32
  int lane;
};

// Both matrices by 32 bytes of a row at a time, the depth of one instruction: 16 bfloat16 or 32 bytes.
template <class Multiply, class SumType, std::uint32_t kFlip>
struct SameOperands {
  using Sum = SumType;
  static constexpr int kGroupBytes = 128;  // of a weight
  static constexpr int kScaleBytes = 0;
  static constexpr int kPad = 16, kWeightPad = 16;  // eight rows of 16 bytes lie in different banks

  template <int kDepth, int kXStep, int kWeightStep, int kRowBlocks, int kColBlocks>
  static __device__ __forceinline__ void multiply(const StagePart& part, Sum (&sums)[kRowBlocks][kColBlocks][4]) {
    const int lane = part.lane;
    const char* const x = part.x + lane % 16 * kXStep + lane / 16 * 16;
    const char* const weight = part.weight + (lane % 8 + lane / 16 * 8) * kWeightStep + lane / 8 % 2 * 16;
#pragma unroll
    for (int k = 0; k < 128 * kDepth; k += 32) {
      std::uint32_t a[kRowBlocks][4];
#pragma unroll
      for (int i = 0; i < kRowBlocks; ++i) {
        load_matrices(a[i], x + i * 16 * kXStep + k);
#pragma unroll
        for (int e = 0; e < 4; ++e) a[i][e] ^= kFlip;
      }
#pragma unroll
      for (int j = 0; j < kColBlocks; j += 2) {
        std::uint32_t b[4];
        load_matrices(b, weight + j * 8 * kWeightStep + k);
        const std::uint32_t even[2] = {b[0], b[1]}, odd[2] = {b[2], b[3]};
#pragma unroll
        for (int i = 0; i < kRowBlocks; ++i) {
          Multiply::call(sums[i][j], a[i], even);
          Multiply::call(sums[i][j + 1], a[i], odd);
        }
      }
    }
  }
};

struct MultiplyBf16 {
  static __device__ __forceinline__ void call(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    multiply_bf16(c, a, b);
  }
};
struct MultiplyInt8 {
  static __device__ __forceinline__ void call(std::int32_t (&c)[4], const std::uint32_t (&a)[4],
                                              const std::uint32_t (&b)[2]) {
    multiply_int8(c, a, b);
  }
};
struct MultiplyFloat8 {
  static __device__ __forceinline__ void call(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    multiply_float8(c, a, b);
  }
};

struct BFloat16Operands : SameOperands<MultiplyBf16, float, 0> {
  static constexpr bool kRowScales = false, kOutputScales = false;
};
// Rows of int8 are bytes plus 128 (ops/ops.h), weights are signed: one bit makes the rows signed too.
struct Int8Operands : SameOperands<MultiplyInt8, std::int32_t, 0x80808080u> {
  static constexpr bool kRowScales = true, kOutputScales = true;
};
// sm_90 has no float8 instruction for a warp: there the assembler widens to float16, exactly, which halves the bytes
// that come from memory and gains no arithmetic. sm_89 and sm_120 have one, whose sums keep fewer bits than float32.
struct Float8Operands : SameOperands<MultiplyFloat8, float, 0> {
  static constexpr bool kRowScales = true, kOutputScales = true;
};

// Rows of bfloat16 against weights of integers, which become bfloat16 on their way from shared memory. The instruction
// does not mind in which order inputs are numbered: lane t of a row or an output takes inputs 8 t to 8 t + 7 of 32, so
// that it reads them at once, four for each of two instructions.
template <class Widen>
struct WidenedOperands {
  using Sum = float;
  static constexpr bool kRowScales = false;
  static constexpr bool kOutputScales = Widen::kOutputScales;
  static constexpr int kGroupBytes = Widen::kBytes * 2;
  static constexpr int kScaleBytes = Widen::kScaleBytes * 2;
  static constexpr int kPad = 64, kWeightPad = Widen::kPad;  // what lanes read together lies in different banks

  template <int kDepth, int kXStep, int kWeightStep, int kRowBlocks, int kColBlocks>
  static __device__ __forceinline__ void multiply(const StagePart& part, float (&sums)[kRowBlocks][kColBlocks][4]) {
    const int g = part.lane / 4, t = part.lane % 4;
#pragma unroll
    for (int k = 0; k < 2 * kDepth; ++k) {      // 32 inputs
      uint4 low[kRowBlocks], high[kRowBlocks];  // rows g and g + 8
#pragma unroll
      for (int i = 0; i < kRowBlocks; ++i) {
        const char* const x = part.x + (16 * i + g) * kXStep + 64 * k + 16 * t;
        low[i] = *reinterpret_cast<const uint4*>(x);
        high[i] = *reinterpret_cast<const uint4*>(x + 8 * kXStep);
      }
#pragma unroll
      for (int j = 0; j < kColBlocks; ++j) {
        const int output = 8 * j + g;
        const float scale = Widen::scale(part.scales + output * kScaleBytes * kDepth + 4 * k);
        std::uint32_t b[4];
        Widen::widen(b, part.weight + output * kWeightStep + Widen::kBytes * k, t, scale);
        const std::uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
#pragma unroll
        for (int i = 0; i < kRowBlocks; ++i) {
          multiply_bf16(sums[i][j], {low[i].x, high[i].x, low[i].y, high[i].y}, first);
          multiply_bf16(sums[i][j], {low[i].z, high[i].z, low[i].w, high[i].w}, second);
        }
      }
    }
  }
};

// 2^23 + n, for a byte n: its bits are those of the float32 2^23 with n in the lowest.
__device__ __forceinline__ float magic(std::uint32_t byte) { return float_of(0x4b000000u | byte); }

struct WidenInt8 {
  static constexpr bool kOutputScales = true;
  static constexpr int kBytes = 32, kScaleBytes = 0, kPad = 32;  // of 32 inputs
  static __device__ __forceinline__ float scale(const char*) { return 1.0f; }
  static __device__ __forceinline__ void widen(std::uint32_t (&out)[4], const char* weights, int t, float) {
    const uint2 bytes = *reinterpret_cast<const uint2*>(weights + 8 * t);
    const std::uint32_t words[2] = {bytes.x ^ 0x80808080u, bytes.y ^ 0x80808080u};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t pair = words[i / 2] >> (16 * (i % 2));
      out[i] = bf16_pair(magic(pair & 0xffu) - 8388736.0f, magic(pair >> 8 & 0xffu) - 8388736.0f);  // 2^23 + 128
    }
  }
};

struct WidenInt4 {
  static constexpr bool kOutputScales = false;
  static constexpr int kBytes = 16, kScaleBytes = 4, kPad = 16;
  static __device__ __forceinline__ float scale(const char* at) { return *reinterpret_cast<const float*>(at); }
  static __device__ __forceinline__ void widen(std::uint32_t (&out)[4], const char* weights, int t, float scale) {
    const std::uint32_t word = *reinterpret_cast<const std::uint32_t*>(weights + 4 * t);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t pair = word >> (8 * i);
      out[i] = bf16_pair((magic(pair & 15u) - 8388616.0f) * scale, (magic(pair >> 4 & 15u) - 8388616.0f) * scale);
    }
  }
};

using BFloat16Int8Operands = WidenedOperands<WidenInt8>;
using BFloat16Int4Operands = WidenedOperands<WidenInt4>;

// float32 throughout, without tensor cores: for tests that want the published tokens. Lanes hold the sums that they
// would hold of a fragment.
struct Float32Operands {
  using Sum = float;
  static constexpr bool kRowScales = false, kOutputScales = false;
  static constexpr int kGroupBytes = 128;
  static constexpr int kScaleBytes = 0;
  static constexpr int kPad = 16, kWeightPad = 16;

  template <int kDepth, int kXStep, int kWeightStep, int kRowBlocks, int kColBlocks>
  static __device__ __forceinline__ void multiply(const StagePart& part, float (&sums)[kRowBlocks][kColBlocks][4]) {
    const int g = part.lane / 4, t = part.lane % 4;
#pragma unroll 2
    for (int k = 0; k < 128 * kDepth; k += 16) {
      float4 x[kRowBlocks][2];
#pragma unroll
      for (int i = 0; i < 2 * kRowBlocks; ++i)
        x[i / 2][i % 2] = *reinterpret_cast<const float4*>(part.x + (8 * i + g) * kXStep + k);
#pragma unroll
      for (int j = 0; j < 2 * kColBlocks; ++j) {
        const int output = j / 2 * 8 + 2 * t + j % 2;
        const float4 w = *reinterpret_cast<const float4*>(part.weight + output * kWeightStep + k);
#pragma unroll
        for (int i = 0; i < 2 * kRowBlocks; ++i) {
          const float4 v = x[i / 2][i % 2];
          float& sum = sums[i / 2][j / 2][i % 2 * 2 + j % 2];
          sum = sum + v.x * w.x;
          sum = sum + v.y * w.y;
          sum = sum + v.z * w.z;
          sum = sum + v.w * w.w;
        }
      }
    }
  }
};

}  // namespace llada::cuda
