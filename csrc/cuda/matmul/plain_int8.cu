#include "cuda/matmul/kernel.cuh"

namespace llada::cuda {

// A row of int8 ends with its scale, so the next one lies at a multiple of 4 bytes.
void run_int8(const ProductInput& input, const ProductOutput& out, ProductTileShape tile, cudaStream_t stream) {
  launch_product<Int8Operands, 4>(input, out, tile, stream);
}

}  // namespace llada::cuda
