// A product as the arguments of one launch: what is multiplied, and by which kernel. gemm.cu makes them from the page's
// tensors by the choice in product_choice.h; tests and benchmarks make them with a kernel of their own choosing.
#pragma once

#include "cuda/matmul/plain.h"

namespace llada::cuda {

struct ProductArgs {
  ProductInput input;
  ProductOutput out;
  float* sums;  // (num_rows, num_outputs) if needs_sums
  std::int64_t num_inputs;
  DType rows;
  DType weight;
  ProductTier tier;
  ProductTileShape tile;          // of the plain tier
  CutlassTileShape cutlass_tile;  // of kCutlassSm90
  std::int32_t early_launch;
};
static_assert(std::has_unique_object_representations_v<ProductArgs>);

// Whether a pass after the product has something left to do with plain sums.
bool needs_sums(const ProductArgs& args);
void run_product(const ProductArgs& args, cudaStream_t stream);

}  // namespace llada::cuda
