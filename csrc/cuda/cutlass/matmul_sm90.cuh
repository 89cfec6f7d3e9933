// Warp-specialised matmuls of CUTLASS 3 for sm_90a: one warp group brings tiles by TMA, the others multiply by wgmma.
// The weight is the left matrix and x the right one, in every tile, so that sums have one order: out^T = weight x^T,
// and out^T with its columns one after the other is out. On an H200 the sums have the bits of the plain tier's.
#pragma once

#include <cutlass/cutlass.h>
#include <cutlass/gemm/device/gemm_universal_adapter.h>

#include <cute/tensor.hpp>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>
#include <type_traits>

#include "core/check.h"
#include "cuda/cutlass/matmul.h"
#include "cuda/cutlass/swiglu_epilogue.cuh"

namespace llada::cuda {

template <class Element, class TileShape, class ClusterShape, class Schedule, class EpilogueSchedule, bool kSwiglu>
struct Sm90Matmul {
  static constexpr int kAlignment = 16 / sizeof(Element);
  using PlainEpilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, TileShape, ClusterShape,
      cutlass::epilogue::collective::EpilogueTileAuto, float, float, float, cutlass::layout::ColumnMajor, 4, float,
      cutlass::layout::ColumnMajor, 4, EpilogueSchedule>::CollectiveOp;
  using Epilogue =
      std::conditional_t<kSwiglu, cutlass::epilogue::collective::detail::Sm90TmaWarpSpecializedAdapter<SwigluEpilogue>,
                         PlainEpilogue>;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, cutlass::layout::RowMajor, kAlignment, Element,
      cutlass::layout::ColumnMajor, kAlignment, float, TileShape, ClusterShape,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(typename Epilogue::SharedStorage))>,
      Schedule>::CollectiveOp;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Mainloop, Epilogue>;
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;

  static void run(const CutlassMatmul& product, cudaStream_t stream) {
    const auto* weight = static_cast<const Element*>(product.weight);
    const auto* x = static_cast<const Element*>(product.x);
    typename Gemm::Arguments args{};
    args.mode = cutlass::gemm::GemmUniversalMode::kGemm;
    args.problem_shape = {product.num_outputs, product.num_rows, product.num_inputs, 1};
    args.mainloop.ptr_A = weight;
    args.mainloop.dA = {product.weight_step, cute::_1{}, 0};
    args.mainloop.ptr_B = x;
    args.mainloop.dB = {product.x_step, cute::_1{}, 0};
    if constexpr (kSwiglu) {
      args.epilogue.out = product.out;
    } else {
      args.epilogue.thread.alpha = 1.0f;
      args.epilogue.thread.beta = product.out.end == MatmulEnd::kAccumulate ? 1.0f : 0.0f;
      args.epilogue.ptr_C = static_cast<float*>(product.out.data);
      args.epilogue.dC = {cute::_1{}, product.out.cols, 0};
      args.epilogue.ptr_D = static_cast<float*>(product.out.data);
      args.epilogue.dD = {cute::_1{}, product.out.cols, 0};
    }
    Gemm gemm;
    cutlass::Status status = gemm.can_implement(args);
    // The schedulers of these kernels need no workspace.
    if (status == cutlass::Status::kSuccess) status = gemm.initialize(args, nullptr, stream);
    if (status == cutlass::Status::kSuccess) status = gemm.run(stream, nullptr, product.early_launch != 0);
    check(status == cutlass::Status::kSuccess, ErrorKind::kDevice, "a product of ", product.num_rows, " x ",
          product.num_outputs, " x ", product.num_inputs, ": ", cutlass::cutlassGetStatusString(status));
  }
};

}  // namespace llada::cuda
