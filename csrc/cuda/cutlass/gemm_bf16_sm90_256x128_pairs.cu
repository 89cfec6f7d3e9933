#include "cuda/cutlass/gemm_sm90.cuh"

namespace llada::cuda {

void run_bf16_sm90_256x128_pairs(const CutlassProduct& product, cudaStream_t stream) {
  using namespace cute;
  Sm90Product<cutlass::bfloat16_t, Shape<_256, _128, _64>, Shape<_2, _1, _1>,
              cutlass::gemm::KernelTmaWarpSpecializedCooperative,
              cutlass::epilogue::TmaWarpSpecializedCooperative>::run(product, stream);
}

}  // namespace llada::cuda
