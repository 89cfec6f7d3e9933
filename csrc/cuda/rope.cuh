// Rotary position embedding. A thread turns four neighbours of one half of a
// head with the four of the other half: 16-byte loads, 8 or 16-byte stores, one pass; memory and latency bound it.
#pragma once

#include "cuda/device/instructions.cuh"
#include "cuda/rows.cuh"

namespace llada::cuda {

constexpr int kRopeThreads = 128;

// Blocks for the units of each row. A thread has one: eight values.
inline dim3 rope_grid(std::int32_t num_rows, std::int64_t num_units) {
  return dim3(static_cast<unsigned>(num_rows), static_cast<unsigned>((num_units + kRopeThreads - 1) / kRopeThreads));
}

struct RopeArgs {
  const float* x;                 // (rows, num_heads * head_dim)
  const float* angles;            // (max_positions, head_dim), halves [cos | sin]
  const std::int32_t* positions;  // (rows)
  void* out;                      // like x, in T
  std::int32_t num_rows;
  std::int32_t num_heads;
  std::int32_t head_dim;
  DType dtype;
};

// Quad `i` of the first half of a head, and its partner.
template <class T>
__device__ __forceinline__ void rotate_quads(const float* x, const float* angle, int i, int head_dim, T* out) {
  const int half = head_dim / 2;  // whole quads
  const Quad x1 = load_quad(x, i, head_dim), x2 = load_quad(x, half + i, head_dim);
  const Quad cos = load_quad(angle, i, head_dim), sin = load_quad(angle, half + i, head_dim);
  Quad first, second;
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    first.v[e] = x1.v[e] * cos.v[e] - x2.v[e] * sin.v[e];
    second.v[e] = x2.v[e] * cos.v[e] + x1.v[e] * sin.v[e];
  }
  store_quad(out, i, head_dim, first);
  store_quad(out, half + i, head_dim, second);
}

template <class T>
__global__ void __launch_bounds__(kRopeThreads) rope_kernel(RopeArgs args) {
  begin_kernel();
  const std::int64_t r = blockIdx.x;
  const int unit = static_cast<int>(blockIdx.y * kRopeThreads + threadIdx.x);
  const int quads = args.head_dim / 8;  // of half a head
  const int head = unit / quads;
  if (head >= args.num_heads) return;
  const std::int64_t offset = (r * args.num_heads + head) * args.head_dim;
  const float* angle = args.angles + static_cast<std::int64_t>(args.positions[r]) * args.head_dim;
  rotate_quads(args.x + offset, angle, unit % quads * 4, args.head_dim, static_cast<T*>(args.out) + offset);
}

}  // namespace llada::cuda
