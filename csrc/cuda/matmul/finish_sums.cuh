// The pass after a matmul that gives plain sums: scales of rows and outputs, SwiGLU, the residual. The pass reads and
// writes the sums once, from the second-level cache where rows are few.
#pragma once

#include "cuda/matmul/end.cuh"

namespace llada::cuda {

constexpr int kFinishThreads = 256;

// sums: (rows, num_outputs), num_outputs even. row_scales: of int8 and float8 rows.  grid: (blocks along a row, rows)
__global__ void __launch_bounds__(kFinishThreads)
    finish_kernel(const MatmulInput input, const MatmulOutput out, const float* sums, int row_scales) {
  begin_kernel();
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.y) + static_cast<std::int64_t>(blockIdx.z) * gridDim.y;
  if (row >= input.num_rows) return;
  const float* const from = sums + row * input.num_outputs;
  const bool scaled = input.scale_step == 1;
  const float row_scale =
      row_scales != 0 ? *reinterpret_cast<const float*>(input.x + (row + 1) * input.x_step - 4) : 1.0f;
  const auto sum = [&](std::int64_t output) {
    const float2 pair = *reinterpret_cast<const float2*>(from + output);
    if (!scaled) return pair;
    const float2 scales = *reinterpret_cast<const float2*>(input.scales + output);
    return float2{pair.x * (row_scale * scales.x), pair.y * (row_scale * scales.y)};
  };
  const std::int64_t pair = static_cast<std::int64_t>(blockIdx.x) * kFinishThreads + threadIdx.x;
  if (out.end != MatmulEnd::kSwiglu) {
    if (2 * pair >= input.num_outputs) return;
    const float2 value = sum(2 * pair);
    put_pair(out, row, 2 * pair, value.x, value.y);
    return;
  }
  if (pair == 0) clear_further_columns(out, row);
  const std::int64_t gate_at = pair / 4 * 16 + pair % 4 * 2;  // four pairs of gates, then four of ups
  if (gate_at >= input.num_outputs) return;
  const float2 gate = sum(gate_at), up = sum(gate_at + 8);
  put_activated_pair(out, row, 2 * pair, gated(gate.x, up.x), gated(gate.y, up.y));
}

}  // namespace llada::cuda
