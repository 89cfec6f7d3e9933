// What a matmul reads and writes, and the kernels of the plain tier by what they multiply: one file each, so that
// compilers work side by side.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/device/api.h"
#include "cuda/matmul/choice.h"
#include "ops/ops.h"

namespace llada::cuda {

// What a matmul reads, as plain data. See cuda/kernels.h for the order of weights.
struct MatmulInput {
  const char* x;                  // (rows, any type)
  const std::int32_t* row_index;  // row r is row row_index[r] of x, a row of zeros where that is -1; nullptr: row r
  std::int64_t x_step;            // bytes, from row to row
  const char* weight;
  std::int64_t weight_step;
  const float* scales;       // of outputs; int4: (outputs, scale_step)
  std::int64_t scale_step;   // floats
  std::int64_t num_outputs;  // rows of `weight`: with the padding of paired ones
  std::int32_t num_rows;
  std::int32_t x_bytes;  // of a row, without its scale
};
static_assert(std::has_unique_object_representations_v<MatmulInput>);  // it is part of the key of a graph

MatmulInput matmul_input(const ConstTensor& x, const PackedWeight& weight);
// What all rows of x and x itself are aligned to: 16 or 4, as kXCopyBytes of a tile.
int x_alignment(const MatmulInput& input);

enum class MatmulEnd : std::int32_t { kStore, kAccumulate, kSwiglu };

struct MatmulOutput {
  void* data;
  std::int64_t cols;        // from row to row
  std::int64_t num_values;  // of a row; SwiGLU makes the further ones zeros
  DType dtype;              // float32; of SwiGLU also bfloat16
  MatmulEnd end;
};
static_assert(std::has_unique_object_representations_v<MatmulOutput>);

// Rows of T at multiples of 4 bytes only have one tile, whatever is asked for.
void run_float32(const MatmulInput& input, const MatmulOutput& out, cudaStream_t stream);
void run_bf16(const MatmulInput& input, const MatmulOutput& out, MatmulTileShape tile, cudaStream_t stream);
void run_bf16_int8(const MatmulInput& input, const MatmulOutput& out, MatmulTileShape tile, cudaStream_t stream);
void run_bf16_int4(const MatmulInput& input, const MatmulOutput& out, MatmulTileShape tile, cudaStream_t stream);
void run_int8(const MatmulInput& input, const MatmulOutput& out, MatmulTileShape tile, cudaStream_t stream);
void run_float8(const MatmulInput& input, const MatmulOutput& out, MatmulTileShape tile, cudaStream_t stream);

// What is left to do to sums (num_rows, num_outputs) of another tier; num_outputs is even. row_scales: of int8 and
// float8 rows.
void finish_sums(const MatmulInput& input, const MatmulOutput& out, const float* sums, bool row_scales,
                 cudaStream_t stream);

}  // namespace llada::cuda
