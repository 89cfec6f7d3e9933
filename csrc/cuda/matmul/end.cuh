// What becomes of the sums of a matmul.
#pragma once

#include <cmath>

#include "cuda/matmul/operands.cuh"
#include "cuda/matmul/plain.h"

namespace llada::cuda {

// silu(gate) * up. Far left exp overflows, where the quotient is 0 to float32 long before.
__device__ __forceinline__ float gated(float gate, float up) { return gate / (1.0f + expf(fminf(-gate, 88.0f))) * up; }

// Values `col` and `col + 1` of a row of float32, as many as there are.
__device__ __forceinline__ void put_pair(const MatmulOutput& out, std::int64_t row, std::int64_t col, float a,
                                         float b) {
  float* const at = static_cast<float*>(out.data) + row * out.cols + col;
  const bool accumulate = out.end == MatmulEnd::kAccumulate;
  if (col + 1 < out.num_values && out.cols % 2 == 0) {
    float2 value{a, b};
    if (accumulate) {
      const float2 before = *reinterpret_cast<const float2*>(at);
      value = {before.x + a, before.y + b};
    }
    *reinterpret_cast<float2*>(at) = value;
    return;
  }
  if (col < out.num_values) at[0] = accumulate ? at[0] + a : a;
  if (col + 1 < out.num_values) at[1] = accumulate ? at[1] + b : b;
}

// The same in the type of what SwiGLU gives.
__device__ __forceinline__ void put_activated_pair(const MatmulOutput& out, std::int64_t row, std::int64_t col, float a,
                                                   float b) {
  if (out.dtype == DType::kFloat32) return put_pair(out, row, col, a, b);
  std::uint16_t* const at = static_cast<std::uint16_t*>(out.data) + row * out.cols + col;
  if (col + 1 < out.num_values && out.cols % 2 == 0) {
    *reinterpret_cast<std::uint32_t*>(at) = bf16_pair(a, b);
    return;
  }
  if (col < out.num_values) at[0] = float_to_bf16(a);
  if (col + 1 < out.num_values) at[1] = float_to_bf16(b);
}

// Zeros at the end of a row, behind what SwiGLU gives.
__device__ __forceinline__ void clear_further_columns(const MatmulOutput& out, std::int64_t row) {
  for (std::int64_t col = out.num_values; col < out.cols; ++col) {
    if (out.dtype == DType::kFloat32)
      static_cast<float*>(out.data)[row * out.cols + col] = 0;
    else
      static_cast<std::uint16_t*>(out.data)[row * out.cols + col] = 0;
  }
}

}  // namespace llada::cuda
