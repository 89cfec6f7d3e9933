// Rows of a matrix by four columns at a time, and what the threads of a block find out about a row together.
#pragma once

#include "core/tensor.h"
#include "cuda/device/target.cuh"

namespace llada::cuda {

constexpr int kRowThreads = 512;  // of a block that has one row
constexpr int kRowWarps = kRowThreads / 32;

struct alignas(16) Quad {
  float v[4];
};

// One access where all rows begin at whole quads.
__device__ __forceinline__ bool in_quads(std::int64_t cols) { return cols % 4 == 0; }

// Columns [i, i + 4) of a row, i a multiple of 4; zeros from `cols` on.
__device__ __forceinline__ Quad load_quad(const float* row, std::int64_t i, std::int64_t cols) {
  if (in_quads(cols)) {
    const float4 x = *reinterpret_cast<const float4*>(row + i);
    return {{x.x, x.y, x.z, x.w}};
  }
  Quad out{};
#pragma unroll
  for (int e = 0; e < 4; ++e)
    if (i + e < cols) out.v[e] = row[i + e];
  return out;
}

__device__ __forceinline__ Quad load_quad(const std::uint16_t* row, std::int64_t i, std::int64_t cols) {
  if (in_quads(cols)) {
    const uint2 x = *reinterpret_cast<const uint2*>(row + i);
    return {{float_of(x.x << 16), float_of(x.x & 0xffff0000u), float_of(x.y << 16), float_of(x.y & 0xffff0000u)}};
  }
  Quad out{};
#pragma unroll
  for (int e = 0; e < 4; ++e)
    if (i + e < cols) out.v[e] = bf16_to_float(row[i + e]);
  return out;
}

__device__ __forceinline__ void store_quad(float* row, std::int64_t i, std::int64_t cols, const Quad& x) {
  if (in_quads(cols)) {
    *reinterpret_cast<float4*>(row + i) = {x.v[0], x.v[1], x.v[2], x.v[3]};
    return;
  }
#pragma unroll
  for (int e = 0; e < 4; ++e)
    if (i + e < cols) row[i + e] = x.v[e];
}

__device__ __forceinline__ void store_quad(std::uint16_t* row, std::int64_t i, std::int64_t cols, const Quad& x) {
  if (in_quads(cols)) {
    *reinterpret_cast<uint2*>(row + i) = {float_to_bf16(x.v[0]) | static_cast<unsigned>(float_to_bf16(x.v[1])) << 16,
                                          float_to_bf16(x.v[2]) | static_cast<unsigned>(float_to_bf16(x.v[3])) << 16};
    return;
  }
#pragma unroll
  for (int e = 0; e < 4; ++e)
    if (i + e < cols) row[i + e] = float_to_bf16(x.v[e]);
}

// This thread's quads of a row that has `count`: use(i, load(i)) for each i, kAhead loads under way at a time.
template <int kAhead, class Load, class Use>
__device__ __forceinline__ void for_each_quad(std::int64_t count, const Load& load, const Use& use) {
  for (std::int64_t begin = threadIdx.x; begin < count; begin += kAhead * kRowThreads) {
    decltype(load(begin)) held[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j)
      if (begin + j * kRowThreads < count) held[j] = load(begin + j * kRowThreads);
#pragma unroll
    for (int j = 0; j < kAhead; ++j)
      if (begin + j * kRowThreads < count) use(begin + j * kRowThreads, held[j]);
  }
}

// One value of all kRowThreads threads, the same in each of them: a tree of fixed shape. `partial` may be used again
// after the next barrier.
template <class Join>
__device__ __forceinline__ float over_block(float value, float (&partial)[kRowWarps], const Join& join) {
#pragma unroll
  for (int bits = 16; bits > 0; bits /= 2) value = join(value, __shfl_xor_sync(~0u, value, bits));
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  value = partial[0];
#pragma unroll
  for (int warp = 1; warp < kRowWarps; ++warp) value = join(value, partial[warp]);
  return value;
}

}  // namespace llada::cuda
