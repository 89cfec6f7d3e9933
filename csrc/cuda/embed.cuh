// Rows of the embedding table, widened to the float32 residual stream, and rows that move up within a matrix. Both are
// copies: memory bounds them, and with few rows latency, so a row has several blocks.
#pragma once

#include "cuda/device/instructions.cuh"
#include "cuda/rows.cuh"

namespace llada::cuda {

constexpr int kCopyThreads = 128;

struct EmbedArgs {
  const std::int32_t* tokens;  // (rows)
  const void* table;           // (vocabulary, cols) in T
  float* out;                  // (rows, cols)
  std::int64_t cols;
  std::int32_t num_rows;
  DType dtype;
};

template <class T>
__global__ void __launch_bounds__(kCopyThreads) embed_kernel(EmbedArgs args) {
  begin_kernel();
  const std::int64_t r = blockIdx.x;
  const T* from = static_cast<const T*>(args.table) + args.tokens[r] * args.cols;
  const std::int64_t i = 4 * (static_cast<std::int64_t>(blockIdx.y) * kCopyThreads + threadIdx.x);
  if (i < args.cols) store_quad(args.out + r * args.cols, i, args.cols, load_quad(from, i, args.cols));
}

struct KeepRowsArgs {
  const std::int32_t* rows;  // (num_kept)
  void* x;
  std::int64_t row_units;  // of 4 bytes, or of 2
  std::int32_t num_kept;
  std::int32_t unit_bytes;
};

// A thread has a column. It reads a few rows before it writes: rows[i] >= i, so it never reads what it has written.
template <class Unit>
__global__ void __launch_bounds__(kCopyThreads) keep_rows_kernel(KeepRowsArgs args) {
  begin_kernel();
  constexpr int kAhead = 8;
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * kCopyThreads + threadIdx.x;
  if (column >= args.row_units) return;
  Unit* x = static_cast<Unit*>(args.x) + column;
  for (int begin = 0; begin < args.num_kept; begin += kAhead) {
    Unit held[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j)
      if (begin + j < args.num_kept) held[j] = x[args.rows[begin + j] * args.row_units];
#pragma unroll
    for (int j = 0; j < kAhead; ++j)
      if (begin + j < args.num_kept) x[(begin + j) * args.row_units] = held[j];
  }
}

}  // namespace llada::cuda
