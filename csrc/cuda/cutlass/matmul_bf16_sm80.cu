// The fallback of CUTLASS 2 for sm_80 and what follows it but sm_90: the same instruction as the plain tier, with
// CUTLASS's swizzled stages.
#include <cutlass/gemm/device/gemm.h>

#include "core/check.h"
#include "cuda/cutlass/matmul.h"

namespace llada::cuda {

void run_bf16_sm80(const CutlassMatmul& product, cudaStream_t stream) {
  using Element = cutlass::bfloat16_t;
  using Gemm = cutlass::gemm::device::Gemm<Element, cutlass::layout::RowMajor, Element, cutlass::layout::ColumnMajor,
                                           float, cutlass::layout::RowMajor, float, cutlass::arch::OpClassTensorOp,
                                           cutlass::arch::Sm80, cutlass::gemm::GemmShape<128, 128, 32>,
                                           cutlass::gemm::GemmShape<64, 64, 32>, cutlass::gemm::GemmShape<16, 8, 16>,
                                           cutlass::epilogue::thread::LinearCombination<float, 4, float, float>,
                                           cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<8>, /*Stages=*/4>;
  const typename Gemm::Arguments args{{product.num_rows, product.num_outputs, product.num_inputs},
                                      {static_cast<const Element*>(product.x), product.x_step},
                                      {static_cast<const Element*>(product.weight), product.weight_step},
                                      {static_cast<float*>(product.out.data), product.out.cols},
                                      {static_cast<float*>(product.out.data), product.out.cols},
                                      {1.0f, product.out.end == MatmulEnd::kAccumulate ? 1.0f : 0.0f}};
  Gemm gemm;
  cutlass::Status status = gemm.can_implement(args);
  if (status == cutlass::Status::kSuccess) status = gemm(args, nullptr, stream);
  check(status == cutlass::Status::kSuccess, ErrorKind::kDevice, "a product of ", product.num_rows, " x ",
        product.num_outputs, " x ", product.num_inputs, ": ", cutlass::cutlassGetStatusString(status));
}

}  // namespace llada::cuda
