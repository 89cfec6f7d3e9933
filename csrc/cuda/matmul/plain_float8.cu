#include "cuda/matmul/kernel.cuh"

namespace llada::cuda {

void run_float8(const ProductInput& input, const ProductOutput& out, ProductTileShape tile, cudaStream_t stream) {
  launch_product<Float8Operands, 16>(input, out, tile, stream);
}

}  // namespace llada::cuda
