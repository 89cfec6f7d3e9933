#include "cuda/matmul/kernel.cuh"

namespace llada::cuda {

void run_float8(const MatmulInput& input, const MatmulOutput& out, MatmulTileShape tile, cudaStream_t stream) {
  launch_matmul<Float8Operands, 16>(input, out, tile, stream);
}

}  // namespace llada::cuda
