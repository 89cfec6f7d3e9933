// Rows that move up within a matrix. The op is a copy in place: memory bounds the kernel, with few rows latency does.
#pragma once

#include "cuda/device/instructions.cuh"

namespace llada::cuda {

constexpr int kKeepRowsThreads = 128;

struct KeepRowsArgs {
  const std::int32_t* rows;  // (num_kept)
  void* x;
  std::int64_t row_units;  // of 4 bytes, or of 2
  std::int32_t num_kept;
  std::int32_t unit_bytes;
};

// A thread has a column, and reads a few rows before it writes: rows[i] >= i, so no thread reads what it has written.
template <class Unit>
__global__ void __launch_bounds__(kKeepRowsThreads) keep_rows_kernel(KeepRowsArgs args) {
  begin_kernel();
  constexpr int kAhead = 8;
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * kKeepRowsThreads + threadIdx.x;
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
