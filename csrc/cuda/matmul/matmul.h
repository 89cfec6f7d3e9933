// A matmul as the arguments of one launch: what is multiplied, and by which kernel. matmul.cu makes them from the
// page's tensors by the choice in choice.h; tests and benchmarks make them with a kernel of their own choosing.
#pragma once

#include "cuda/matmul/plain.h"

namespace llada::cuda {

struct MatmulArgs {
  MatmulInput input;
  MatmulOutput out;
  float* sums;  // (num_rows, num_outputs) if needs_sums
  std::int64_t num_inputs;
  DType rows;
  DType weight;
  MatmulTier tier;
  MatmulTileShape tile;           // of the plain tier
  CutlassTileShape cutlass_tile;  // of kCutlassSm90
  std::int32_t early_launch;
};
static_assert(std::has_unique_object_representations_v<MatmulArgs>);

// Whether a pass after the kernel has something left to do with plain sums.
bool needs_sums(const MatmulArgs& args);
void run_matmul(const MatmulArgs& args, cudaStream_t stream);

}  // namespace llada::cuda
