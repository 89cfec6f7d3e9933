// Kernels that do nothing but multiply, on registers, or read.
#pragma once

#include "cuda/device/instructions.cuh"

namespace llada::cuda {

constexpr int kPeakThreads = 256;
constexpr int kPeakChains = 8;  // products of a warp that don't wait for each other

struct Bf16Peak {
  using Sum = float;
  static constexpr double kWarpFlop = 2.0 * 16 * 8 * 16;
  static __device__ __forceinline__ void step(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    multiply_bf16(c, a, b);
  }
};
struct Int8Peak {
  using Sum = std::int32_t;
  static constexpr double kWarpFlop = 2.0 * 16 * 8 * 32;
  static __device__ __forceinline__ void step(std::int32_t (&c)[4], const std::uint32_t (&a)[4],
                                              const std::uint32_t (&b)[2]) {
    multiply_int8(c, a, b);
  }
};
struct Float8Peak {
  using Sum = float;
  static constexpr double kWarpFlop = 2.0 * 16 * 8 * 32;
  static __device__ __forceinline__ void step(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    multiply_float8(c, a, b);
  }
};
struct Float32Peak {
  using Sum = float;
  static constexpr double kWarpFlop = 2.0 * 4 * 32;
  static __device__ __forceinline__ void step(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) c[i] = c[i] * float_of(a[i]) + float_of(b[i % 2]);
  }
};

// out: (blocks, kPeakThreads), so that nothing is left out as unused.
template <class Peak>
__global__ void __launch_bounds__(kPeakThreads) peak_kernel(float* out, int num_rounds) {
  begin_kernel();
  typename Peak::Sum sums[kPeakChains][4] = {};
  const std::uint32_t seed = 0x3c003c00u + threadIdx.x;  // small numbers in any of the types
  const std::uint32_t a[4] = {seed, seed + 1, seed + 2, seed + 3}, b[2] = {seed + 4, seed + 5};
  for (int round = 0; round < num_rounds; ++round) {
#pragma unroll
    for (int i = 0; i < kPeakChains; ++i) Peak::step(sums[i], a, b);
  }
  float total = 0;
#pragma unroll
  for (int i = 0; i < 4 * kPeakChains; ++i) total += static_cast<float>(sums[i / 4][i % 4]);
  out[static_cast<std::int64_t>(blockIdx.x) * kPeakThreads + threadIdx.x] = total;
}

// out: (blocks, kPeakThreads).  from: (count), 16 bytes each.
__global__ void __launch_bounds__(kPeakThreads) read_kernel(const uint4* from, std::int64_t count, std::uint32_t* out) {
  begin_kernel();
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kPeakThreads;
  const std::int64_t own = static_cast<std::int64_t>(blockIdx.x) * kPeakThreads + threadIdx.x;
  std::uint32_t seen = 0;
#pragma unroll 8
  for (std::int64_t i = own; i < count; i += step) {
    const uint4 value = __ldg(from + i);
    seen ^= value.x ^ value.y ^ value.z ^ value.w;
  }
  out[own] = seen;
}

}  // namespace llada::cuda
