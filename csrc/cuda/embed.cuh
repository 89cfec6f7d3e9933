// Rows of the embedding table, widened to the float32 residual stream. The op is a copy: memory bounds the kernel, and
// with few rows latency does, so a row has several blocks.
#pragma once

#include "cuda/device/instructions.cuh"
#include "cuda/rows.cuh"

namespace llada::cuda {

constexpr int kEmbedThreads = 128;

struct EmbedArgs {
  const std::int32_t* tokens;  // (rows)
  const void* table;           // (vocabulary, cols) in T
  float* out;                  // (rows, cols)
  std::int64_t cols;
  std::int32_t num_rows;
  DType dtype;
};

template <class T>
__global__ void __launch_bounds__(kEmbedThreads) embed_kernel(EmbedArgs args) {
  begin_kernel();
  const std::int64_t r = blockIdx.x;
  const T* from = static_cast<const T*>(args.table) + args.tokens[r] * args.cols;
  const std::int64_t i = 4 * (static_cast<std::int64_t>(blockIdx.y) * kEmbedThreads + threadIdx.x);
  if (i < args.cols) store_quad(args.out + r * args.cols, i, args.cols, load_quad(from, i, args.cols));
}

}  // namespace llada::cuda
