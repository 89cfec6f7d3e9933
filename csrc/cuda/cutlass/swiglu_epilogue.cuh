// What CUTLASS does with the sums of a paired weight: silu(gate) * up straight from the registers. A paired weight
// alternates eight gates and eight ups, and a thread of wgmma holds rows g and g + 8 of each sixteen: a gate and the up
// that belongs to it. Neighbours in g exchange halves, so that each thread writes two columns of one row.
#pragma once

#include <cute/tensor.hpp>
#include <cutlass/epilogue/collective/detail.hpp>
#include <cutlass/epilogue/dispatch_policy.hpp>

#include "cuda/matmul/end.cuh"

namespace llada::cuda {

class SwigluEpilogue {
 public:
  using EpilogueSchedule = cutlass::epilogue::NoSmemWarpSpecialized;
  using DispatchPolicy = EpilogueSchedule;
  using ElementOutput = float;
  using ElementAccumulator = float;
  using ElementCompute = float;
  using ElementScalar = float;
  using ElementC = float;
  using StrideC = cute::Stride<cute::_1, std::int64_t, std::int64_t>;
  using ElementD = float;
  using StrideD = StrideC;
  using GmemTiledCopyC = void;
  using GmemTiledCopyD = void;
  static const int kOutputAlignment = 1;
  struct ThreadEpilogueOp {
    using ElementOutput = float;
    static const int kCount = 1;
  };
  struct SharedStorage {};
  using TensorStorage = SharedStorage;
  struct Arguments {
    MatmulOutput out;
  };
  using Params = Arguments;

  template <class ProblemShape>
  static constexpr Params to_underlying_arguments(const ProblemShape&, const Arguments& args, void*) {
    return args;
  }
  template <class ProblemShape>
  static std::size_t get_workspace_size(const ProblemShape&, const Arguments&) {
    return 0;
  }
  template <class ProblemShape>
  static cutlass::Status initialize_workspace(const ProblemShape&, const Arguments&, void*, cudaStream_t,
                                              cutlass::CudaHostAdapter* = nullptr) {
    return cutlass::Status::kSuccess;
  }
  template <class ProblemShape>
  static bool can_implement(const ProblemShape&, const Arguments&) {
    return true;
  }

  CUTLASS_HOST_DEVICE
  explicit SwigluEpilogue(const Params& params, const SharedStorage& = SharedStorage()) : out_(params.out) {}

  CUTLASS_DEVICE bool is_source_needed() { return false; }

  template <class ProblemShape, class TileShape, class TileCoord, class SumEngine, class SumLayout, class TiledMma,
            class Residue>
  CUTLASS_DEVICE void operator()(ProblemShape problem_shape, TileShape tile_shape, TileCoord tile,
                                 const cute::Tensor<SumEngine, SumLayout>& sums, TiledMma tiled_mma, Residue,
                                 int thread, char*) {
    using namespace cute;
    const int num_outputs = get<0>(problem_shape), num_rows = get<1>(problem_shape);
    const auto places = make_identity_tensor(make_shape(num_outputs, num_rows));
    const auto of_tile =
        local_tile(places, take<0, 2>(tile_shape), make_coord(get<0>(tile), get<1>(tile)));  // (outputs, rows)
    const auto at = tiled_mma.get_thread_slice(thread).partition_C(of_tile);  // ((2 rows, 2 outputs, eights), M, N)
    const int odd = thread / 4 % 2;                                           // of g, which is the lane by four
#pragma unroll
    for (int n = 0; n < size<2>(sums); ++n)
#pragma unroll
      for (int m = 0; m < size<1>(sums); ++m)
#pragma unroll
        for (int eight = 0; eight < size<0, 2>(sums); ++eight) {
          const float first = gated(sums(make_coord(0, 0, eight), m, n), sums(make_coord(0, 1, eight), m, n));
          const float second = gated(sums(make_coord(1, 0, eight), m, n), sums(make_coord(1, 1, eight), m, n));
          const float other = __shfl_xor_sync(~0u, odd ? first : second, 4);
          const auto place = at(make_coord(0, 0, eight), m, n);
          const int output = get<0>(place), row = get<1>(place) + odd;
          const int column = output / 16 * 8 + output % 8 - odd;
          if (row < num_rows && output < num_outputs)
            put_activated_pair(out_, row, column, odd ? other : first, odd ? second : other);
        }
  }

 private:
  MatmulOutput out_;
};

}  // namespace llada::cuda
