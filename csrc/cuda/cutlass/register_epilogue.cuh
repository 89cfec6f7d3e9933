// What CUTLASS does with sums straight from the registers: scales of rows and outputs, then SwiGLU or a plain end.
//
// A thread of wgmma holds, of each eight rows, two neighbours in outputs g and g + 8 of sixteen (g is its lane by
// four). A paired weight alternates eight gates and eight ups, so that is a gate and the up that belongs to it.
// Neighbours in g exchange halves, so that each thread writes two columns of one row.
#pragma once

#include <cute/tensor.hpp>
#include <cutlass/epilogue/collective/detail.hpp>
#include <cutlass/epilogue/dispatch_policy.hpp>

#include "cuda/gemm_end.cuh"

namespace llada::cuda {

// kScaled: rows and outputs have scales.
template <bool kScaled>
class RegisterEpilogue {
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
    ProductOutput out;
    const char* row_scales;  // float32, row_scale_step bytes from row to row
    std::int64_t row_scale_step;
    const float* output_scales;
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
  explicit RegisterEpilogue(const Params& params, const SharedStorage& = SharedStorage()) : params_(params) {}

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
    const int odd = thread / 4 % 2;                                           // of g
    const bool swiglu = params_.out.end == ProductEnd::kSwiglu;
#pragma unroll
    for (int n = 0; n < size<2>(sums); ++n)
#pragma unroll
      for (int m = 0; m < size<1>(sums); ++m)
#pragma unroll
        for (int eight = 0; eight < size<0, 2>(sums); ++eight) {
          const auto place = at(make_coord(0, 0, eight), m, n);
          const int output = get<0>(place), row = get<1>(place);
          float value[2][2];  // [row][output, output + 8]
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const float of_row = row_scale(row + r, num_rows);
#pragma unroll
            for (int o = 0; o < 2; ++o)
              value[r][o] = scaled(sums(make_coord(r, o, eight), m, n), of_row, output + 8 * o, num_outputs);
          }
          if (swiglu) {
            const int column = output / 16 * 8 + output % 8;
            put(gated(value[0][0], value[0][1]), gated(value[1][0], value[1][1]), row, column, odd, num_rows,
                [&](int to_row, int to_column, float a, float b) {
                  put_activated_pair(params_.out, to_row, to_column, a, b);
                });
            continue;
          }
#pragma unroll
          for (int o = 0; o < 2; ++o)
            put(value[0][o], value[1][o], row, output + 8 * o, odd, num_rows,
                [&](int to_row, int to_column, float a, float b) { put_pair(params_.out, to_row, to_column, a, b); });
        }
  }

 private:
  CUTLASS_DEVICE float row_scale(int row, int num_rows) const {
    if constexpr (kScaled)
      return row < num_rows ? *reinterpret_cast<const float*>(params_.row_scales + row * params_.row_scale_step) : 0.0f;
    return 1.0f;
  }

  CUTLASS_DEVICE float scaled(float sum, float of_row, int output, int num_outputs) const {
    if constexpr (kScaled) return sum * (of_row * (output < num_outputs ? params_.output_scales[output] : 0.0f));
    return sum;
  }

  // first, second: of `column` in `row` and in the next one. write(row, column, value, value of the next column).
  template <class Write>
  static CUTLASS_DEVICE void put(float first, float second, int row, int column, int odd, int num_rows,
                                 const Write& write) {
    const float other = __shfl_xor_sync(~0u, odd != 0 ? first : second, 4);
    if (row + odd < num_rows) write(row + odd, column - odd, odd != 0 ? other : first, odd != 0 ? second : other);
  }

  Params params_;
};

}  // namespace llada::cuda
