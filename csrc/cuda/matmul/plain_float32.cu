#include "cuda/matmul/kernel.cuh"

namespace llada::cuda {

void run_float32(const ProductInput& input, const ProductOutput& out, cudaStream_t stream) {
  launch_tile<Float32Operands, 4, ProductTileShape::k64x64>(input, out, stream);
}

}  // namespace llada::cuda
