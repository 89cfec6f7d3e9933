#include "cuda/matmul/kernel.cuh"

namespace llada::cuda {

void run_float32(const MatmulInput& input, const MatmulOutput& out, cudaStream_t stream) {
  launch_tile<Float32Operands, 4, MatmulTileShape::k64x64>(input, out, stream);
}

}  // namespace llada::cuda
