// One tile of x weight^T on any GPU from sm_80 on: the main loop of the matmuls and of the fused head.
//
// With the 32 rows of a block of masks the weights come from memory once and bound everything: 16-byte copies run
// kStages deep beside the arithmetic, and there are tiles for all multiprocessors. With thousands of rows mma.sync
// bounds the loop, at about two thirds of what wgmma would do on sm_90.
//
//   MatmulTile<...> tile;
//   tile.run(input, row0, output0, shared);                       // all threads of the block; ends with a barrier
//   tile.for_each_pair(input, row0, output0, [&](int row, int output, float a, float b) { ... });
// calls with finished sums of outputs `output` and `output + 1` of a row, counted from the tile's corner; each pair
// comes to one thread. Rows and outputs beyond the end come too, and mean nothing.
#pragma once

#include "cuda/matmul/operands.cuh"
#include "cuda/matmul/plain.h"

namespace llada::cuda {

// Copies a block of kRows rows by kBytes to shared memory, in pieces of 16 bytes; each thread its own, the same ones
// in each stage. kCopyBytes: what a row in memory is aligned to, 16 or less.
template <int kRows, int kBytes, int kStep, int kCopyBytes, int kThreads>
struct BlockCopy {
  static constexpr int kPerRow = kBytes / (kCopyBytes < 16 && kBytes % 16 != 0 ? kCopyBytes : 16);
  static constexpr int kPieceBytes = kBytes / kPerRow;
  static constexpr int kPieces = kRows * kPerRow;
  static constexpr int kPerThread = (kPieces + kThreads - 1) / kThreads;

  const char* from[kPerThread];  // nullptr: zeros

  // first(row): where a row of the block begins in memory.
  template <class First>
  __device__ __forceinline__ void begin(const First& first) {
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int piece = static_cast<int>(threadIdx.x) + i * kThreads;
      from[i] = kPieces % kThreads == 0 || piece < kPieces ? first(piece / kPerRow) : nullptr;
    }
  }

  // Bytes [offset, offset + kBytes) of each row, zeros from `limit` on.
  __device__ __forceinline__ void copy(char* to, std::int64_t offset, std::int64_t limit) const {
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int piece = static_cast<int>(threadIdx.x) + i * kThreads;
      if (kPieces % kThreads != 0 && piece >= kPieces) continue;
      const std::int64_t at = offset + piece % kPerRow * kPieceBytes;
      char* const target = to + piece / kPerRow * kStep + piece % kPerRow * kPieceBytes;
      constexpr int kCopy = kCopyBytes < kPieceBytes ? kCopyBytes : kPieceBytes;
#pragma unroll
      for (int byte = 0; byte < kPieceBytes; byte += kCopy)
        copy_async<kCopy>(target + byte, from[i] + at + byte, from[i] != nullptr && at + byte < limit);
    }
  }
};

// kXCopyBytes: rows of x lie at multiples of it, 16 or 4.
template <class Operands, int kRowsIn, int kOutputsIn, int kWarpsDown, int kWarpsAcross, int kDepth, int kStages,
          int kXCopyBytes>
class MatmulTile {
 public:
  static constexpr int kRows = kRowsIn;
  static constexpr int kOutputs = kOutputsIn;
  static constexpr int kThreads = 32 * kWarpsDown * kWarpsAcross;

 private:
  static constexpr int kWarpRows = kRows / kWarpsDown, kWarpOutputs = kOutputs / kWarpsAcross;
  static constexpr int kRowBlocks = kWarpRows / 16, kColBlocks = kWarpOutputs / 8;
  static_assert(kWarpRows % 16 == 0 && kWarpOutputs % 16 == 0);
  static constexpr int kXBytes = 128 * kDepth, kWeightBytes = Operands::kGroupBytes * kDepth;
  static constexpr int kScaleBytes = Operands::kScaleBytes * kDepth;
  static constexpr int kXStep = kXBytes + Operands::kPad, kWeightStep = kWeightBytes + Operands::kWeightPad;
  static constexpr int kWeightAt = kRows * kXStep, kScalesAt = kWeightAt + kOutputs * kWeightStep;
  static constexpr int kStageBytes = kScalesAt + kOutputs * kScaleBytes;

 public:
  static constexpr int kSharedBytes = kStages * kStageBytes;  // aligned to 16

  // shared: kSharedBytes. A barrier before the call must follow the last use of this memory.
  __device__ __forceinline__ void run(const MatmulInput& input, std::int64_t row0, std::int64_t output0, char* shared) {
    const int num_stages = (input.x_bytes + kXBytes - 1) / kXBytes;
    let_next_kernel_begin();
    begin_weights(input, output0);
    // No kernel writes weights: they are on their way while those before this one still run.
#pragma unroll
    for (int stage = 0; stage < kStages - 1; ++stage) copy_weights(input, stage, num_stages, shared);
    wait_for_previous_kernels();
    begin_rows(input, row0);
#pragma unroll
    for (int stage = 0; stage < kStages - 1; ++stage) copy_rows(input, stage, num_stages, shared);
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int row = warp / kWarpsAcross * kWarpRows, output = warp % kWarpsAcross * kWarpOutputs;
    for (int stage = 0; stage < num_stages; ++stage) {
      copy_async_wait<kStages - 2>();
      __syncthreads();  // the stage is there for all, and all have done with the one that is overwritten next
      copy_weights(input, stage + kStages - 1, num_stages, shared);
      copy_rows(input, stage + kStages - 1, num_stages, shared);
      const char* const at = shared + stage % kStages * kStageBytes;
      const StagePart part{at + row * kXStep, at + kWeightAt + output * kWeightStep,
                           at + kScalesAt + output * kScaleBytes, static_cast<int>(threadIdx.x) % 32};
      Operands::template multiply<kDepth, kXStep, kWeightStep>(part, sums_);
    }
    copy_async_wait<0>();
    __syncthreads();
  }

  // Calls function(row, output, sum, sum of the next output).
  template <class Function>
  __device__ __forceinline__ void for_each_pair(const MatmulInput& input, std::int64_t row0, std::int64_t output0,
                                                const Function& function) const {
    for_each_row(input, row0, [&](int i, int half, int row, float row_scale) {
#pragma unroll
      for (int j = 0; j < kColBlocks; ++j) {
        const int output = first_output() + 8 * j;
        const float2 sum = finished(input, i, half, j, row_scale, output0 + output);
        function(row, output, sum.x, sum.y);
      }
    });
  }

  // For a paired weight: function(row, output, gate, next gate, up, next up), with `output` among the gates.
  template <class Function>
  __device__ __forceinline__ void for_each_gated_pair(const MatmulInput& input, std::int64_t row0, std::int64_t output0,
                                                      const Function& function) const {
    for_each_row(input, row0, [&](int i, int half, int row, float row_scale) {
#pragma unroll
      for (int j = 0; j < kColBlocks; j += 2) {
        const int output = first_output() + 8 * j;
        const float2 gate = finished(input, i, half, j, row_scale, output0 + output);
        const float2 up = finished(input, i, half, j + 1, row_scale, output0 + output + 8);
        function(row, (output - output % 8) / 2 + output % 8, gate.x, gate.y, up.x, up.y);
      }
    });
  }

 private:
  __device__ __forceinline__ void begin_rows(const MatmulInput& input, std::int64_t row0) {
#pragma unroll
    for (int i = 0; i < kRowBlocks * kColBlocks * 4; ++i) sums_[i / 4 / kColBlocks][i / 4 % kColBlocks][i % 4] = 0;
    x_.begin([&](int row) { return row_of_x(input, row0 + row); });
  }

  __device__ __forceinline__ void begin_weights(const MatmulInput& input, std::int64_t output0) {
    weight_.begin([&](int output) {
      return output0 + output < input.num_outputs ? input.weight + (output0 + output) * input.weight_step : nullptr;
    });
    if constexpr (kScaleBytes > 0) {
      scales_.begin([&](int output) {
        const float* const row = input.scales + (output0 + output) * input.scale_step;
        return output0 + output < input.num_outputs ? reinterpret_cast<const char*>(row) : nullptr;
      });
    }
  }

  static __device__ __forceinline__ const char* row_of_x(const MatmulInput& input, std::int64_t row) {
    if (row >= input.num_rows) return nullptr;
    const std::int64_t from = input.row_index == nullptr ? row : input.row_index[row];
    return from < 0 ? nullptr : input.x + from * input.x_step;
  }

  __device__ __forceinline__ void copy_weights(const MatmulInput& input, int stage, int num_stages,
                                               char* shared) const {
    if (stage >= num_stages) return;
    char* const to = shared + stage % kStages * kStageBytes;
    const std::int64_t k = stage;
    weight_.copy(to + kWeightAt, k * kWeightBytes, input.weight_step);
    if constexpr (kScaleBytes > 0) scales_.copy(to + kScalesAt, k * kScaleBytes, 4 * input.scale_step);
  }

  // And closes the group of the stage.
  __device__ __forceinline__ void copy_rows(const MatmulInput& input, int stage, int num_stages, char* shared) const {
    const std::int64_t k = stage;
    if (stage < num_stages) x_.copy(shared + stage % kStages * kStageBytes, k * kXBytes, input.x_bytes);
    copy_async_commit();  // an empty group at the end keeps the count
  }

  // function(row block, half of it, row in the tile, scale of the row)
  template <class Function>
  __device__ __forceinline__ void for_each_row(const MatmulInput& input, std::int64_t row0,
                                               const Function& function) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
    for (int i = 0; i < 2 * kRowBlocks; ++i) {
      const int row = warp / kWarpsAcross * kWarpRows + 8 * i + lane / 4;
      float row_scale = 1.0f;
      if constexpr (Operands::kRowScales) {
        const char* const from = row_of_x(input, row0 + row);
        if (from != nullptr) row_scale = *reinterpret_cast<const float*>(from + input.x_step - 4);
      }
      function(i / 2, i % 2, row, row_scale);
    }
  }

  static __device__ __forceinline__ int first_output() {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    return warp % kWarpsAcross * kWarpOutputs + 2 * (lane % 4);
  }

  __device__ __forceinline__ float2 finished(const MatmulInput& input, int i, int half, int j, float row_scale,
                                             std::int64_t output) const {
    float a = static_cast<float>(sums_[i][j][2 * half]), b = static_cast<float>(sums_[i][j][2 * half + 1]);
    if constexpr (Operands::kOutputScales) {
      a *= row_scale * (output < input.num_outputs ? input.scales[output] : 0.0f);
      b *= row_scale * (output + 1 < input.num_outputs ? input.scales[output + 1] : 0.0f);
    }
    return {a, b};
  }

  typename Operands::Sum sums_[kRowBlocks][kColBlocks][4];
  BlockCopy<kRows, kXBytes, kXStep, kXCopyBytes, kThreads> x_;
  BlockCopy<kOutputs, kWeightBytes, kWeightStep, 16, kThreads> weight_;
  BlockCopy<kOutputs, kScaleBytes == 0 ? 8 : kScaleBytes, kScaleBytes, 8, kThreads> scales_;
};

}  // namespace llada::cuda
