#include "cuda/matmul/kernel.cuh"

namespace llada::cuda {

// A row of int8 ends with its scale, so the next one lies at a multiple of 4 bytes.
void run_int8(const MatmulInput& input, const MatmulOutput& out, MatmulTileShape tile, cudaStream_t stream) {
  launch_matmul<Int8Operands, 4>(input, out, tile, stream);
}

}  // namespace llada::cuda
