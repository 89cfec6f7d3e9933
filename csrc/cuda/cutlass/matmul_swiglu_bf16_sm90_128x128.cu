#include "cuda/cutlass/matmul_sm90.cuh"

namespace llada::cuda {

void run_swiglu_bf16_sm90_128x128(const CutlassMatmul& product, cudaStream_t stream) {
  using namespace cute;
  Sm90Matmul<cutlass::bfloat16_t, Shape<_128, _128, _64>, Shape<_1, _1, _1>,
             cutlass::gemm::KernelTmaWarpSpecializedCooperative, cutlass::epilogue::TmaWarpSpecializedCooperative,
             true>::run(product, stream);
}

}  // namespace llada::cuda
