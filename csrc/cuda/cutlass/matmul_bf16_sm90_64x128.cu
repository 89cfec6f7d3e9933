#include "cuda/cutlass/matmul_sm90.cuh"

namespace llada::cuda {

void run_bf16_sm90_64x128(const CutlassMatmul& product, cudaStream_t stream) {
  using namespace cute;
  Sm90Matmul<cutlass::bfloat16_t, Shape<_64, _128, _64>, Shape<_1, _1, _1>,
             cutlass::gemm::KernelTmaWarpSpecializedPingpong, cutlass::epilogue::TmaWarpSpecialized,
             false>::run(product, stream);
}

}  // namespace llada::cuda
