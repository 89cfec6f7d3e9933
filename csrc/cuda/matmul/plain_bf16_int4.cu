#include "cuda/matmul/kernel.cuh"

namespace llada::cuda {

void run_bf16_int4(const MatmulInput& input, const MatmulOutput& out, MatmulTileShape tile, cudaStream_t stream) {
  if (x_alignment(input) == 16)
    launch_matmul<BFloat16Int4Operands, 16>(input, out, tile, stream);
  else
    launch_tile<BFloat16Int4Operands, 4, MatmulTileShape::k64x64>(input, out, stream);
}

}  // namespace llada::cuda
