#include "cuda/cutlass/matmul_sm90.cuh"

namespace llada::cuda {

void run_swiglu_bf16_sm90_128x256_pairs(const CutlassMatmul& product, cudaStream_t stream) {
  using namespace cute;
  Sm90Matmul<cutlass::bfloat16_t, Shape<_128, _256, _64>, Shape<_2, _1, _1>,
             cutlass::gemm::KernelTmaWarpSpecializedCooperative, cutlass::epilogue::TmaWarpSpecializedCooperative,
             true>::run(product, stream);
}

}  // namespace llada::cuda
