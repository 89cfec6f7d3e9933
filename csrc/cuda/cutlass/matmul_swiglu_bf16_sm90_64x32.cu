#include "cuda/cutlass/matmul_sm90.cuh"

namespace llada::cuda {

void run_swiglu_bf16_sm90_64x32(const CutlassMatmul& product, cudaStream_t stream) {
  using namespace cute;
  Sm90Matmul<cutlass::bfloat16_t, Shape<_64, _32, _128>, Shape<_1, _1, _1>,
             cutlass::gemm::KernelTmaWarpSpecializedPingpong, cutlass::epilogue::TmaWarpSpecialized, true>::run(product,
                                                                                                                stream);
}

}  // namespace llada::cuda
