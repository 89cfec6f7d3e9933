#include "cuda/cutlass/matmul_sm90.cuh"

namespace llada::cuda {

void run_float8_sm90_128x128(const CutlassMatmul& product, cudaStream_t stream) {
  using namespace cute;
  Sm90Matmul<cutlass::float_e4m3_t, Shape<_128, _128, _128>, Shape<_1, _1, _1>,
             cutlass::gemm::KernelTmaWarpSpecializedCooperative, cutlass::epilogue::TmaWarpSpecializedCooperative,
             false>::run(product, stream);
}

}  // namespace llada::cuda
