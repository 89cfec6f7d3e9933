// Runs CUDA kernels on the processor: one block at a time, one stack for each thread of it, switched at barriers and at
// what a warp does together (shuffles, votes, fragments, matrix products). What it shows: arithmetic, indices, ties,
// barriers that not all threads reach, reads of shared memory that nobody wrote (it begins as NaN), reads of a
// background copy before it was waited for, loads and stores at addresses that their type does not allow. What it
// can't: races between threads of a warp, bank conflicts, the memory model, speed.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __align__(n) alignas(n)
#define __shared__ static  // one block runs at a time
#define __launch_bounds__(...)
#define LLADA_SHARED_MEMORY(name) char* const name = cuda_host::shared_memory()

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x_in = 1, unsigned y_in = 1, unsigned z_in = 1) : x(x_in), y(y_in), z(z_in) {}
};
// Aligned as on a GPU, which loads nothing else.
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) int4 {
  int x, y, z, w;
};

namespace cuda_host {

struct Stream;

// Runs the kernel's body for each block of the grid. Throws std::logic_error if threads wait at different barriers, or
// if one reads or writes a value where its type may not be.
void run(const char* name, dim3 grid, int num_threads, std::int64_t shared_bytes, const std::function<void()>& body);

// At once, or into the graph that is being captured.
void enqueue(Stream* stream, std::function<void()> work);

// Ends the kernel that runs, with its name before what is wrong; its other threads stay where they are. Comes back only
// where none runs.
void fail_kernel(const std::string& what);

char* shared_memory();
void wait_for_previous();
void wait_for_block();
void wait_for_warp();
unsigned lane();

// Each lane of the warp offers 64 bytes and then sees what the others offer, until its next call.
using Offer = std::uint64_t[8];
const Offer* exchange(const void* offered, std::size_t num_bytes);

// Background copies: they happen when their group is waited for.
void copy_later(void* to, const void* from, int num_bytes, bool valid);
void close_copies();
void wait_for_copies(int num_pending);

}  // namespace cuda_host

using cudaStream_t = cuda_host::Stream*;

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

inline float rsqrtf(float v) { return 1.0f / std::sqrt(v); }
inline float __expf(float v) { return std::exp(v); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __int_as_float(int v) {
  float out;
  std::memcpy(&out, &v, 4);
  return out;
}
inline int __float_as_int(float v) {
  int out;
  std::memcpy(&out, &v, 4);
  return out;
}
inline int __popc(unsigned v) { return __builtin_popcount(v); }
template <class T>
T __ldg(const T* at) {
  return *at;
}
template <class T>
T __ldcg(const T* at) {
  return *at;
}
template <class T>
T atomicAdd(T* at, T value) {
  const T before = *at;
  *at = before + value;
  return before;
}
template <class T>
T atomicMin(T* at, T value) {
  const T before = *at;
  *at = before < value ? before : value;
  return before;
}
template <class T>
T atomicMax(T* at, T value) {
  const T before = *at;
  *at = before > value ? before : value;
  return before;
}
inline void __threadfence() {}
inline void __trap() { throw std::logic_error("the kernel trapped"); }

inline void __syncthreads() { cuda_host::wait_for_block(); }
inline void __syncwarp(unsigned = ~0u) { cuda_host::wait_for_warp(); }
template <class T>
T __shfl_sync(unsigned, T value, int from) {
  static_assert(sizeof(T) <= 8);
  T out;
  std::memcpy(&out, cuda_host::exchange(&value, sizeof value)[from & 31], sizeof out);
  return out;
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return __shfl_sync(mask, value, static_cast<int>(cuda_host::lane()) ^ bits);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by) {
  const unsigned from = cuda_host::lane() + by;
  return __shfl_sync(mask, value, static_cast<int>(from < 32 ? from : cuda_host::lane()));
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by) {
  const unsigned own = cuda_host::lane();
  return __shfl_sync(mask, value, static_cast<int>(own >= by ? own - by : own));
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  const auto* offers = cuda_host::exchange(&predicate, sizeof predicate);
  unsigned votes = 0;
  for (int i = 0; i < 32; ++i) votes |= static_cast<unsigned>(static_cast<std::uint32_t>(offers[i][0]) != 0) << i;
  return votes;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == ~0u; }

namespace llada::cuda {

inline void let_next_kernel_begin() {}
inline void wait_for_previous_kernels() { cuda_host::wait_for_previous(); }
template <int kBytes>
void copy_async(void* shared, const void* global, bool valid = true) {
  cuda_host::copy_later(shared, global, kBytes, valid);
}
inline void copy_async_commit() { cuda_host::close_copies(); }
template <int kPending>
void copy_async_wait() {
  cuda_host::wait_for_copies(kPending);
}
void load_matrices(std::uint32_t (&out)[4], const void* shared_row);
void load_matrices_transposed(std::uint32_t (&out)[4], const void* shared_row);
void multiply_bf16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);
void multiply_int8(std::int32_t (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);
void multiply_float8(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);

}  // namespace llada::cuda
