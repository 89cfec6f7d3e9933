// The arithmetic roof of sm_90: wgmma with the left matrix in registers and the right one in shared memory, which is
// what the tensor cores can be fed at full rate.
#include <cutlass/arch/barrier.h>

#include <cute/arch/mma_sm90_gmma.hpp>
#include <utility>

#include "cuda/cutlass/matmul.h"
#include "cuda/device/api.h"

namespace llada::cuda {
namespace {

constexpr int kThreads = 256;  // two warp groups
constexpr int kUnderWay = 16;  // products that are not waited for
constexpr int kSums = 32;      // of a thread: 64 x 64 of a warp group
constexpr int kRightBytes = 64 * 32;

template <class Product, std::size_t... kIndex>
__device__ __forceinline__ void multiply(const std::uint32_t (&a)[4], std::uint64_t right, float (&sums)[kSums],
                                         std::index_sequence<kIndex...>) {
  Product::fma(a[0], a[1], a[2], a[3], right, sums[kIndex]...);
}

// out: (blocks, kThreads), so that nothing is left out as unused.
template <class Product>
__global__ void __launch_bounds__(kThreads) wgmma_peak_kernel(float* out, int num_rounds) {
  __shared__ __align__(128) std::uint32_t right[kRightBytes / 4];
  for (int i = static_cast<int>(threadIdx.x); i < kRightBytes / 4; i += kThreads) right[i] = 0x3c003c00u + i;
  cutlass::arch::fence_view_async_shared();  // plain stores, which the tensor cores read by another way
  __syncthreads();
  // No swizzle: pieces of 8 rows by 16 bytes lie one after the other (PTX ISA, "Matrix descriptor"), in units of 16.
  const std::uint64_t address = __cvta_generic_to_shared(right) >> 4;
  const std::uint64_t descriptor = (address & 0x3fff) | std::uint64_t{8} << 16 | std::uint64_t{16} << 32;
  const std::uint32_t seed = 0x3c003c00u + threadIdx.x;
  const std::uint32_t a[4] = {seed, seed + 1, seed + 2, seed + 3};
  float sums[kSums] = {};
  for (int round = 0; round < num_rounds; ++round) {
    cute::warpgroup_arrive();
#pragma unroll
    for (int i = 0; i < kUnderWay; ++i) multiply<Product>(a, descriptor, sums, std::make_index_sequence<kSums>{});
    cute::warpgroup_commit_batch();
    cute::warpgroup_wait<0>();
  }
  float total = 0;
#pragma unroll
  for (int i = 0; i < kSums; ++i) total += sums[i];
  out[static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x] = total;
}

using Bf16 = cute::SM90::GMMA::MMA_64x64x16_F32BF16BF16_RS<cute::SM90::GMMA::Major::K, cute::SM90::GMMA::Major::K>;
using Float8 = cute::SM90::GMMA::MMA_64x64x32_F32E4M3E4M3_RS_TN<>;

}  // namespace

double run_peak_sm90(bool float8, int num_processors, int num_rounds, float* out, cudaStream_t stream) {
  const int num_blocks = 2 * num_processors;
  launch("wgmma peak", float8 ? wgmma_peak_kernel<Float8> : wgmma_peak_kernel<Bf16>,
         dim3(static_cast<unsigned>(num_blocks)), kThreads, 0, stream, out, num_rounds);
  const double group_flop = 2.0 * 64 * 64 * (float8 ? 32 : 16);
  return group_flop * (kThreads / 128) * kUnderWay * num_blocks * num_rounds;
}

}  // namespace llada::cuda
