// The matmuls of CUTLASS, in builds that have it (LLADA_HAVE_CUTLASS). Each is one instantiation in a file of its own:
// a Hopper one takes the compiler 40 s and 4 GB. Those of float8 give plain sums: their scales and SwiGLU are a pass
// after them (matmul/finish_sums.cuh).
//
// None splits the inputs of an output, neither by split-K nor by stream-K: which parts there are would depend on the
// number of rows, and so would the bits of a row.
#pragma once

#include <cstdint>

#include "cuda/matmul/plain.h"

namespace llada::cuda {

// What becomes of x weight^T is in `out`; without scales.
struct CutlassMatmul {
  const void* x;       // (num_rows, num_inputs)
  const void* weight;  // (num_outputs, num_inputs)
  MatmulOutput out;
  std::int64_t x_step;  // elements from row to row, as the next one; all rows at multiples of 16 bytes
  std::int64_t weight_step;
  std::int32_t num_rows;
  std::int32_t num_outputs;
  std::int32_t num_inputs;
  std::int32_t early_launch;  // as in device/api.h; of the sm_90 matmuls
};

// Each throws DeviceError with what CUTLASS says.
using CutlassRun = void (*)(const CutlassMatmul& product, cudaStream_t stream);

// sm_90a, TMA and wgmma. Outputs x rows of a tile: where rows are few the weight is the left matrix, whose tiles are at
// least 64 high, so that no part of a tile is idle. `pairs`: in clusters of two tiles along the outputs, which fetch
// the rows of x once for both.
void run_bf16_sm90_64x32(const CutlassMatmul& product, cudaStream_t stream);
void run_bf16_sm90_64x64(const CutlassMatmul& product, cudaStream_t stream);
void run_bf16_sm90_64x128(const CutlassMatmul& product, cudaStream_t stream);
void run_bf16_sm90_128x128(const CutlassMatmul& product, cudaStream_t stream);
void run_bf16_sm90_128x256_pairs(const CutlassMatmul& product, cudaStream_t stream);
// The same with SwiGLU at the end, of a paired weight.
void run_swiglu_bf16_sm90_64x32(const CutlassMatmul& product, cudaStream_t stream);
void run_swiglu_bf16_sm90_64x64(const CutlassMatmul& product, cudaStream_t stream);
void run_swiglu_bf16_sm90_64x128(const CutlassMatmul& product, cudaStream_t stream);
void run_swiglu_bf16_sm90_128x128(const CutlassMatmul& product, cudaStream_t stream);
void run_swiglu_bf16_sm90_128x256_pairs(const CutlassMatmul& product, cudaStream_t stream);
void run_float8_sm90_64x32(const CutlassMatmul& product, cudaStream_t stream);
void run_float8_sm90_128x128(const CutlassMatmul& product, cudaStream_t stream);

// sm_80 and later, mma.sync.
void run_bf16_sm80(const CutlassMatmul& product, cudaStream_t stream);

// Multiplies on sm_90a as fast as wgmma goes, and returns how many operations that was; bf16 or float8.  out: float32,
// 512 for each multiprocessor.
double run_peak_sm90(bool float8, int num_processors, int num_rounds, float* out, cudaStream_t stream);

}  // namespace llada::cuda
