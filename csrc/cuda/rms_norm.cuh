// Root-mean-square norm of each row of the residual stream, to T or quantised. A block has a row; row and weight come
// to shared memory in one trip, before the mean is known. With the few rows of a step the latency of the trip bounds
// the kernel, with many rows memory does.
#pragma once

#include <type_traits>

#include "cuda/device/instructions.cuh"
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

// Dynamic shared memory: a row of whole quads, and the weight.
constexpr std::int64_t rms_norm_shared_bytes(std::int64_t cols) { return 2 * ((cols + 3) / 4 * 16); }

template <DType kOut>
__global__ void __launch_bounds__(kRowThreads) rms_norm_kernel(RmsNormArgs args) {
  begin_kernel();
  LLADA_SHARED_MEMORY(shared);
  __shared__ float partial[kRowWarps];
  const std::int64_t r = blockIdx.x, cols = args.cols, num_quads = (cols + 3) / 4;
  Quad* const row = reinterpret_cast<Quad*>(shared);
  Quad* const weight = row + num_quads;

  struct Pair {
    Quad x, w;
  };
  const auto load = [&](std::int64_t i) -> Pair {
    return {load_quad(args.x + r * cols, 4 * i, cols), load_quad(args.weight, 4 * i, cols)};
  };
  float squares = 0;
  for_each_quad<4>(num_quads, load, [&](std::int64_t i, const Pair& pair) {
    row[i] = pair.x;
    weight[i] = pair.w;
    const float* x = pair.x.v;
    squares += x[0] * x[0] + x[1] * x[1] + (x[2] * x[2] + x[3] * x[3]);
  });
  squares = over_block(squares, partial, [](float a, float b) { return a + b; });
  const float factor = 1.0f / sqrtf(squares / static_cast<float>(cols) + args.eps);

  // A thread keeps to its quads, so what it wrote to shared memory it may read without a barrier.
  const auto normed = [&](std::int64_t i) {
    Quad x = row[i];
    const Quad w = weight[i];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      x.v[e] *= factor;
      if (kOut == DType::kBFloat16) x.v[e] = bf16_to_float(float_to_bf16(x.v[e]));
      x.v[e] *= w.v[e];
    }
    return x;
  };
  if constexpr (kOut == DType::kFloat32 || kOut == DType::kBFloat16) {
    using T = std::conditional_t<kOut == DType::kFloat32, float, std::uint16_t>;
    T* out = static_cast<T*>(args.out) + r * cols;
    for_each_quad<4>(num_quads, normed, [&](std::int64_t i, const Quad& x) { store_quad(out, 4 * i, cols, x); });
  } else {
    quantize_row<kOut>(cols, normed, static_cast<char*>(args.out) + r * row_bytes(kOut, cols));
  }
}

}  // namespace llada::cuda
