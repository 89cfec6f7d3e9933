#include "cuda/matmul/kernel.cuh"

namespace llada::cuda {

void run_bf16_int8(const ProductInput& input, const ProductOutput& out, ProductTileShape tile, cudaStream_t stream) {
  if (x_alignment(input) == 16)
    launch_product<BFloat16Int8Operands, 16>(input, out, tile, stream);
  else
    launch_tile<BFloat16Int8Operands, 4, ProductTileShape::k64x64>(input, out, stream);
}

}  // namespace llada::cuda
