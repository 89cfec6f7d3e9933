// Root-mean-square norm of each row of the residual stream, to T or quantised. A block has a row, which it reads again
// from the first-level cache for each pass; with the few rows of a step the latency of two trips bounds it.
#pragma once

#include "cuda/quantize.cuh"

namespace llada::cuda {

struct RmsNormArgs {
  const float* x;       // (rows, cols)
  const float* weight;  // (cols)
  void* out;            // (rows, cols)
  std::int64_t cols;
  std::int32_t num_rows;
  DType dtype;
  float eps;
};

// 1 / sqrt(mean(x^2) + eps)
__device__ __forceinline__ float norm_factor(const float* x, std::int64_t cols, float eps) {
  __shared__ float partial[kRowWarps];
  float squares = 0;
#pragma unroll 4
  for (std::int64_t i = 4 * static_cast<std::int64_t>(threadIdx.x); i < cols; i += 4 * kRowThreads) {
    const Quad v = load_quad(x, i, cols);
    squares += v.v[0] * v.v[0] + v.v[1] * v.v[1] + (v.v[2] * v.v[2] + v.v[3] * v.v[3]);
  }
  squares = over_block(squares, partial, [](float a, float b) { return a + b; });
  return 1.0f / sqrtf(squares / static_cast<float>(cols) + eps);
}

template <DType kOut>
__global__ void rms_norm_kernel(RmsNormArgs args) {
  const std::int64_t r = blockIdx.x;
  const std::int64_t cols = args.cols;
  const float* x = args.x + r * cols;
  const float factor = norm_factor(x, cols, args.eps);
  const auto normed = [&](std::int64_t i) {
    Quad v = load_quad(x, i, cols);
    const Quad w = load_quad(args.weight, i, cols);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      v.v[e] *= factor;
      if (kOut == DType::kBFloat16) v.v[e] = bf16_to_float(float_to_bf16(v.v[e]));
      v.v[e] *= w.v[e];
    }
    return v;
  };
  if constexpr (kOut == DType::kFloat32 || kOut == DType::kBFloat16) {
    using T = std::conditional_t<kOut == DType::kFloat32, float, std::uint16_t>;
    T* out = static_cast<T*>(args.out) + r * cols;
#pragma unroll 4
    for (std::int64_t i = 4 * static_cast<std::int64_t>(threadIdx.x); i < cols; i += 4 * kRowThreads)
      store_quad(out, i, cols, normed(i));
  } else {
    quantize_row<kOut>(cols, normed, static_cast<char*>(args.out) + r * row_bytes(kOut, cols));
  }
}

}  // namespace llada::cuda
