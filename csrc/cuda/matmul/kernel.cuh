// Matmuls as kernels: a tile for each block, and what becomes of the tile's sums.
#pragma once

#include "core/check.h"
#include "cuda/matmul/end.cuh"
#include "cuda/matmul/tile.cuh"

namespace llada::cuda {

// grid: row tiles, fastest, so that blocks that run together share weights in the second-level cache, times output
// tiles.
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads) matmul_kernel(const MatmulInput input, const MatmulOutput out) {
  LLADA_SHARED_MEMORY(shared);
  const int num_row_tiles = (input.num_rows + Tile::kRows - 1) / Tile::kRows;
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) % num_row_tiles * Tile::kRows;
  const std::int64_t output0 = static_cast<std::int64_t>(blockIdx.x) / num_row_tiles * Tile::kOutputs;
  Tile tile;
  tile.run(input, row0, output0, shared);
  if (out.end != MatmulEnd::kSwiglu) {
    tile.for_each_pair(input, row0, output0, [&](int row, int output, float a, float b) {
      if (row0 + row < input.num_rows) put_pair(out, row0 + row, output0 + output, a, b);
    });
    return;
  }
  tile.for_each_gated_pair(
      input, row0, output0, [&](int row, int col, float gate_a, float gate_b, float up_a, float up_b) {
        if (row0 + row >= input.num_rows) return;
        put_activated_pair(out, row0 + row, output0 / 2 + col, gated(gate_a, up_a), gated(gate_b, up_b));
      });
  if (output0 + Tile::kOutputs < input.num_outputs) return;
  for (std::int64_t row = row0 + threadIdx.x; row < row0 + Tile::kRows && row < input.num_rows; row += Tile::kThreads)
    clear_further_columns(out, row);
}

// The tiles, with depths that keep 30 to 50 KiB of weights of a block on their way where rows are few. The second
// number of warps counts along the outputs.
template <class Operands, int kXCopy, MatmulTileShape kShape>
struct TileOf;
template <class O, int kCopy>
struct TileOf<O, kCopy, MatmulTileShape::k32x32> : MatmulTile<O, 32, 32, 2, 2, 2, 5, kCopy> {};
template <class O, int kCopy>
struct TileOf<O, kCopy, MatmulTileShape::k32x64> : MatmulTile<O, 32, 64, 2, 2, 1, 6, kCopy> {};
template <class O, int kCopy>
struct TileOf<O, kCopy, MatmulTileShape::k32x128> : MatmulTile<O, 32, 128, 1, 4, 1, 4, kCopy> {};
// With four warps int4 would spill two registers.
template <int kCopy>
struct TileOf<BFloat16Int4Operands, kCopy, MatmulTileShape::k32x128>
    : MatmulTile<BFloat16Int4Operands, 32, 128, 2, 4, 1, 4, kCopy> {};
template <class O, int kCopy>
struct TileOf<O, kCopy, MatmulTileShape::k64x64> : MatmulTile<O, 64, 64, 2, 2, 1, 4, kCopy> {};
template <class O, int kCopy>
struct TileOf<O, kCopy, MatmulTileShape::k128x128> : MatmulTile<O, 128, 128, 2, 4, 1, 3, kCopy> {};
template <class O, int kCopy>
struct TileOf<O, kCopy, MatmulTileShape::k128x256> : MatmulTile<O, 128, 256, 2, 4, 1, 4, kCopy> {};

template <class Operands, int kXCopy, MatmulTileShape kShape>
void launch_tile(const MatmulInput& input, const MatmulOutput& out, cudaStream_t stream) {
  using Tile = TileOf<Operands, kXCopy, kShape>;
  static_assert(Tile::kRows == facts_of(kShape).rows && Tile::kOutputs == facts_of(kShape).outputs);
  static_assert(Tile::kSharedBytes <= facts_of(kShape).shared_bytes);
  const std::int64_t row_tiles = (input.num_rows + Tile::kRows - 1) / Tile::kRows;
  const std::int64_t output_tiles = (input.num_outputs + Tile::kOutputs - 1) / Tile::kOutputs;
  launch("matmul", matmul_kernel<Tile>, dim3(static_cast<unsigned>(row_tiles * output_tiles)), Tile::kThreads,
         Tile::kSharedBytes, stream, input, out);
}

template <class Operands, int kXCopy>
void launch_matmul(const MatmulInput& input, const MatmulOutput& out, MatmulTileShape tile, cudaStream_t stream) {
  switch (tile) {
    case MatmulTileShape::k32x32:
      return launch_tile<Operands, kXCopy, MatmulTileShape::k32x32>(input, out, stream);
    case MatmulTileShape::k32x64:
      return launch_tile<Operands, kXCopy, MatmulTileShape::k32x64>(input, out, stream);
    case MatmulTileShape::k32x128:
      return launch_tile<Operands, kXCopy, MatmulTileShape::k32x128>(input, out, stream);
    case MatmulTileShape::k64x64:
      return launch_tile<Operands, kXCopy, MatmulTileShape::k64x64>(input, out, stream);
    case MatmulTileShape::k128x128:
      return launch_tile<Operands, kXCopy, MatmulTileShape::k128x128>(input, out, stream);
    case MatmulTileShape::k128x256:
      if constexpr (!std::is_same_v<Operands, Float8Operands>)
        return launch_tile<Operands, kXCopy, MatmulTileShape::k128x256>(input, out, stream);
  }
  fail(ErrorKind::kInternal, "no such tile of these operands");
}

}  // namespace llada::cuda
