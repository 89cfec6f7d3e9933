// Instructions that CUDA C++ has no word for: copies to shared memory that run beside the arithmetic, matrix fragments
// and their products. sm_80 and later; the float8 product sm_89 and later.
//
// Fragments of a warp, lane = 4 g + t: registers of 32 bits hold 2 bfloat16 or 4 bytes, neighbours along k.
//   a[0], a[1], a[2], a[3]: rows g, g + 8, g, g + 8 at k = t, t, t + 4, t + 4 (counted in registers)
//   b[0], b[1]:             column g at k = t, t + 4
//   c[0], c[1]; c[2], c[3]: columns 2 t, 2 t + 1 of row g; of row g + 8
// PTX ISA 8.x, "Matrix fragments for mma.m16n8k16" and "m16n8k32".
#pragma once

#include "cuda/device/target.cuh"

namespace llada::cuda {

#if defined(__CUDACC__)

__device__ __forceinline__ std::uint32_t shared_address(const void* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}

// Copies kBytes (4, 8 or 16, all aligned to it) to shared memory in the background; zeros where `valid` is false, and
// nothing is read then.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid = true) {
  const int size = valid ? kBytes : 0;
  if constexpr (kBytes == 16)  // past the first-level cache
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(size)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(size),
                 "n"(kBytes)
                 : "memory");
}

// Closes a group of the copies of this thread.
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most kPending of this thread's groups are under way; a barrier must follow before others read.
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8 x 8 matrices of 16-bit values: lane l names row l % 8 of matrix l / 8 (16 bytes, aligned); register i of lane
// 4 g + t is row g of matrix i at column 2 t.
__device__ __forceinline__ void load_matrices(std::uint32_t (&out)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(shared_row))
               : "memory");
}

// The same, each matrix transposed: register i of lane 4 g + t is rows 2 t and 2 t + 1 of matrix i at column g.
__device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&out)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(shared_row))
               : "memory");
}

// c += a b, (16, 16) x (16, 8), bfloat16 in, float32 accumulate.
__device__ __forceinline__ void multiply_bf16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// c += a b, (16, 32) x (32, 8), signed bytes in, int32 accumulate.
__device__ __forceinline__ void multiply_int8(std::int32_t (&c)[4], const std::uint32_t (&a)[4],
                                              const std::uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// c += a b, (16, 32) x (32, 8), e4m3 in, float32 accumulate. Before sm_89 there is no such instruction: the loader
// refuses float8 there, so this is never reached.
__device__ __forceinline__ void multiply_float8(float (&c)[4], const std::uint32_t (&a)[4],
                                                const std::uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 890
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

// Kernels that are launched early (EarlyLaunch in api.h) run beside the ones before them. Each thread of each kernel
// waits once, whatever it does, or a kernel further on would not know that all before it have ended.
__device__ __forceinline__ void let_next_kernel_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Until all kernels before this one have ended and what they wrote can be seen. Before, nothing may be touched that
// they read or write: weights may be read.
__device__ __forceinline__ void wait_for_previous_kernels() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

#endif  // the imitations are in cuda_host.h

// What a kernel with nothing to do beforehand begins with.
__device__ __forceinline__ void begin_kernel() {
  let_next_kernel_begin();
  wait_for_previous_kernels();
}

// 2^x to 2 units in the last place, 0 below 2^-126. A NaN stays one.
__device__ __forceinline__ float power_of_two(float x) {
#if defined(__CUDACC__)
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
#else
  return std::exp2(x);
#endif
}

// Two floats rounded to bfloat16, ties to even, the first one in the low half.
__device__ __forceinline__ std::uint32_t bf16_pair(float low, float high) {
#if defined(__CUDACC__)
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return float_to_bf16(low) | static_cast<std::uint32_t>(float_to_bf16(high)) << 16;
#endif
}

}  // namespace llada::cuda
