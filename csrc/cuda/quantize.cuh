// Rows of int8 and float8 with their scales. A block has a row: one pass for the largest value, one that writes. The
// second one reads from the first-level cache, so a row comes from memory once; memory and latency bound it.
//
// Rows of int8 are as in ops/ops.h. A row of float8 is e4m3 of x * (448 / max |x|), zeros up to a multiple of 16 bytes,
// 12 bytes of any value, then the scale, float32: max |x| / 448. Rows that are tiny or not finite are told as of int8.
#pragma once

#include "cuda/device/instructions.cuh"
#include "cuda/rows.cuh"

namespace llada::cuda {

struct RowScale {
  float scale;
  float inverse;
};

// By ops/ops.h.  largest: |x| of the row, infinity if an element is not finite.
__device__ __forceinline__ RowScale row_scale(DType dtype, float largest) {
  const float limit = dtype == DType::kInt8 ? 127.0f : 448.0f;
  if (largest > 3.4028234663852886e38f) return {float_of(0x7fc00000u), 0.0f};
  if (largest < 0x1p-100f) return {0.0f, 0.0f};
  return {largest / limit, limit / largest};
}

template <DType kOut>
__device__ __forceinline__ std::uint32_t quantized(float x, float inverse) {
  if (inverse == 0.0f) return kOut == DType::kInt8 ? 128 : 0;  // x may be infinite
  if constexpr (kOut == DType::kInt8)
    return static_cast<std::uint32_t>(static_cast<int>(rintf(x * inverse)) + 128);
  else
    return float_to_float8(x * inverse);
}

// All threads of the block write one row.  get(i): quad i, zeros beyond the end of the row; called twice.
template <DType kOut, class Get>
__device__ __forceinline__ void quantize_row(std::int64_t cols, const Get& get, char* out) {
  static_assert(kOut == DType::kInt8 || kOut == DType::kFloat8);
  constexpr int kAhead = 8;
  __shared__ float partial[kRowWarps];
  float largest = 0;
  for_each_quad<kAhead>((cols + 3) / 4, get, [&](std::int64_t, const Quad& x) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float size = fabsf(x.v[e]);
      largest = fmaxf(largest, size <= 3.4028234663852886e38f ? size : INFINITY);
    }
  });
  largest = over_block(largest, partial, [](float a, float b) { return fmaxf(a, b); });
  const RowScale by = row_scale(kOut, largest);

  // Bytes that fill up a row of float8 meet weights of zero, and must not be NaN there.
  const std::int64_t padded = kOut == DType::kInt8 ? (cols + 3) / 4 : (cols + 15) / 16 * 4;
  const auto or_zeros = [&](std::int64_t i) { return 4 * i < cols ? get(i) : Quad{}; };
  for_each_quad<kAhead>(padded, or_zeros, [&](std::int64_t i, const Quad& x) {
    std::uint32_t word = 0;
#pragma unroll
    for (int e = 0; e < 4; ++e) word |= quantized<kOut>(x.v[e], by.inverse) << (8 * e);
    reinterpret_cast<std::uint32_t*>(out)[i] = word;
  });
  if (threadIdx.x == 0) *reinterpret_cast<float*>(out + row_bytes(kOut, cols) - 4) = by.scale;
}

struct QuantizeArgs {
  const float* x;  // (rows, cols)
  char* out;       // rows of row_bytes
  std::int64_t cols;
  std::int32_t num_rows;
  DType dtype;
};

template <DType kOut>
__global__ void __launch_bounds__(kRowThreads) quantize_kernel(QuantizeArgs args) {
  begin_kernel();
  const std::int64_t r = blockIdx.x;
  const float* x = args.x + r * args.cols;
  quantize_row<kOut>(
      args.cols, [&](std::int64_t i) { return load_quad(x, 4 * i, args.cols); },
      args.out + r * row_bytes(kOut, args.cols));
}

}  // namespace llada::cuda
