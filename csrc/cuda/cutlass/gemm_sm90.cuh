// Warp-specialised products of CUTLASS 3 for sm_90a: one warp group brings tiles by TMA, the others multiply by wgmma.
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
#include "cuda/cutlass/products.h"
#include "cuda/cutlass/swiglu_epilogue.cuh"

namespace llada::cuda {

// A main loop that begins to fetch its first tile of weights to the second-level cache at once: under early launch the
// kernels before it are still running then, and the memory has less to do.
template <class Base>
struct AheadOfTime : Base {
  struct Arguments : Base::Arguments {
    const char* weight;
    std::int64_t weight_step_bytes;
    std::int32_t num_outputs;
    std::int32_t row_bytes;  // to fetch of each row, a multiple of 16
  };
  struct Params : Base::Params {
    const char* weight;
    std::int64_t weight_step_bytes;
    std::int32_t num_outputs;
    std::int32_t row_bytes;
  };

  template <class ProblemShape>
  static constexpr Params to_underlying_arguments(const ProblemShape& shape, const Arguments& args, void* workspace) {
    return {Base::to_underlying_arguments(shape, args, workspace), args.weight, args.weight_step_bytes,
            args.num_outputs, args.row_bytes};
  }

  template <class ProblemShape>
  CUTLASS_DEVICE auto load_init(const ProblemShape& shape, const Params& params) const {
    constexpr int kOutputs = cute::size<0>(typename Base::TileShape{});
    const int tiles = (params.num_outputs + kOutputs - 1) / kOutputs;
    const int row = static_cast<int>(blockIdx.x) % tiles * kOutputs + static_cast<int>(threadIdx.x);
    if (params.row_bytes > 0 && threadIdx.x < kOutputs && row < params.num_outputs) {
      const char* const at = params.weight + row * params.weight_step_bytes;
      asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(at), "r"(params.row_bytes) : "memory");
    }
    return Base::load_init(shape, params);
  }
};

template <class Element, class TileShape, class ClusterShape, class Schedule, class EpilogueSchedule, bool kSwiglu>
struct Sm90Product {
  static constexpr int kAlignment = 16 / sizeof(Element);
  using PlainEpilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, TileShape, ClusterShape,
      cutlass::epilogue::collective::EpilogueTileAuto, float, float, float, cutlass::layout::ColumnMajor, 4, float,
      cutlass::layout::ColumnMajor, 4, EpilogueSchedule>::CollectiveOp;
  using Epilogue =
      std::conditional_t<kSwiglu, cutlass::epilogue::collective::detail::Sm90TmaWarpSpecializedAdapter<SwigluEpilogue>,
                         PlainEpilogue>;
  using Mainloop = AheadOfTime<typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, cutlass::layout::RowMajor, kAlignment, Element,
      cutlass::layout::ColumnMajor, kAlignment, float, TileShape, ClusterShape,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(typename Epilogue::SharedStorage))>,
      Schedule>::CollectiveOp>;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Mainloop, Epilogue>;
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;

  static void run(const CutlassProduct& product, cudaStream_t stream) {
    const auto* weight = static_cast<const Element*>(product.weight);
    const auto* x = static_cast<const Element*>(product.x);
    typename Gemm::Arguments args{};
    args.mode = cutlass::gemm::GemmUniversalMode::kGemm;
    args.problem_shape = {product.num_outputs, product.num_rows, product.num_inputs, 1};
    args.mainloop.ptr_A = weight;
    args.mainloop.dA = {product.weight_step, cute::_1{}, 0};
    args.mainloop.ptr_B = x;
    args.mainloop.dB = {product.x_step, cute::_1{}, 0};
    args.mainloop.weight = reinterpret_cast<const char*>(weight);
    args.mainloop.weight_step_bytes = product.weight_step * static_cast<std::int64_t>(sizeof(Element));
    args.mainloop.num_outputs = product.num_outputs;
    args.mainloop.row_bytes = ahead_of_each_row(product);
    if constexpr (kSwiglu) {
      args.epilogue.out = product.out;
    } else {
      args.epilogue.thread.alpha = 1.0f;
      args.epilogue.thread.beta = product.out.end == ProductEnd::kAccumulate ? 1.0f : 0.0f;
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

  // Bytes of each row that the first tiles fetch ahead, so that all of them together fetch ahead_bytes.
  static std::int32_t ahead_of_each_row(const CutlassProduct& product) {
    const std::int64_t row_bytes = product.num_inputs * static_cast<std::int64_t>(sizeof(Element));
    const std::int64_t rows = std::min<std::int64_t>(product.num_outputs, 132 * cute::size<0>(TileShape{}));
    return static_cast<std::int32_t>(std::min(row_bytes, product.ahead_bytes / rows) / 128 * 128);
  }
};

}  // namespace llada::cuda
