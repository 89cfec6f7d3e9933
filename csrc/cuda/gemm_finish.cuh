// The pass after a product that gives plain sums: SwiGLU of a paired weight. It reads the sums once, from the
// second-level cache where rows are few.
#pragma once

#include "cuda/gemm_end.cuh"

namespace llada::cuda {

constexpr int kFinishThreads = 256;

// sums: (rows, num_outputs), eight gates and eight ups in turn.  grid: (blocks along a row, rows)
__global__ void __launch_bounds__(kFinishThreads)
    finish_kernel(const ProductInput input, const ProductOutput out, const float* sums) {
  begin_kernel();
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.y) + static_cast<std::int64_t>(blockIdx.z) * gridDim.y;
  if (row >= input.num_rows) return;
  const float* const from = sums + row * input.num_outputs;
  const std::int64_t pair = static_cast<std::int64_t>(blockIdx.x) * kFinishThreads + threadIdx.x;
  if (pair == 0) clear_further_columns(out, row);
  const std::int64_t gate_at = pair / 4 * 16 + pair % 4 * 2;  // four pairs of gates, then four of ups
  if (gate_at >= input.num_outputs) return;
  const float2 gate = *reinterpret_cast<const float2*>(from + gate_at);
  const float2 up = *reinterpret_cast<const float2*>(from + gate_at + 8);
  put_activated_pair(out, row, 2 * pair, gated(gate.x, up.x), gated(gate.y, up.y));
}

}  // namespace llada::cuda
