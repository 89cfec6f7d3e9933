// The one inner kernel of the house: a tile of sums of rows times columns, the rows broadcast, the columns in lanes.
// Matrix products, q k^T, p v and the head all run on this kernel; only the strides and the step differ. A step
// multiplies 4 bytes of the inner dimension: one float32, two bfloat16 (both summed in float32) or four int8 (summed in
// int32).
#pragma once

#include "cpu/simd/simd.h"

namespace llada::cpu::LLADA_TABLE {

constexpr std::int64_t kPanel = 64;  // columns of a packed panel and of every scratch tile

// All steps in bytes; the inner dimension counts packs of 4 bytes.
struct TileInput {
  const char* a;  // rows
  std::int64_t row_step;
  const char* b;             // columns, 16 lanes of 4 bytes
  std::int64_t vector_step;  // to the next 16 columns
  std::int64_t inner_step;   // to the next pack
  std::int64_t num_packs;
  // What comes after these columns in memory, fetched into the L2 cache meanwhile: a share of it by each tile of rows.
  const char* ahead = nullptr;
  std::int64_t ahead_step = 0;
};

// c[r][16 j ..] (+)= a[r] b for ROWS rows and VECTORS vectors. The loops over the accumulators must be unrolled for
// them to stay in registers; the sum of one element runs in the order of the inner dimension whatever the tile.
template <class Step, int ROWS, int VECTORS>
LLADA_INLINE void tile_kernel(const TileInput& in, typename Step::Element* c, std::int64_t c_step, bool accumulate) {
  typename Step::Sum acc[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) acc[r][j] = accumulate ? load(c + r * c_step + j * kLanes) : Step::zero();
  const char* a = in.a;
  const char* b = in.b;
  const char* ahead = in.ahead;
  for (std::int64_t k = 0; k < in.num_packs; ++k, a += 4, b += in.inner_step) {
    prefetch(ahead);
    prefetch(ahead + 64);
    if (in.ahead_step > 128) {
      prefetch(ahead + 128);
      prefetch(ahead + 192);
    }
    ahead += in.ahead_step;
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; ++j) acc[r][j] = Step::step(acc[r][j], a + r * in.row_step, b + j * in.vector_step);
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) store(c + r * c_step + j * kLanes, acc[r][j]);
}

template <class Step, int ROWS>
LLADA_INLINE void tile_columns(TileInput in, int num_vectors, typename Step::Element* c, std::int64_t c_step,
                               bool accumulate) {
  int j = 0;
  for (; j + kTileVectors <= num_vectors; j += kTileVectors) {
    tile_kernel<Step, ROWS, kTileVectors>(in, c + j * kLanes, c_step, accumulate);
    in.b += kTileVectors * in.vector_step;
  }
  if constexpr (kTileVectors > 1) {
    for (; j < num_vectors; ++j, in.b += in.vector_step)
      tile_kernel<Step, ROWS, 1>(in, c + j * kLanes, c_step, accumulate);
  }
}

// The tile of `rows` rows, ROWS at most.
template <class Step, int ROWS>
void tile_rows(std::int64_t rows, const TileInput& in, int num_vectors, typename Step::Element* c, std::int64_t c_step,
               bool accumulate) {
  if constexpr (ROWS > 0) {
    if (rows == ROWS) return tile_columns<Step, ROWS>(in, num_vectors, c, c_step, accumulate);
    tile_rows<Step, ROWS - 1>(rows, in, num_vectors, c, c_step, accumulate);
  }
}

// c (num_rows, 16 num_vectors), rows c_step elements apart. The rows are spread evenly over the tiles: a narrow last
// tile would wait for its few accumulators. Each of the first tiles fetches a share of what comes next: the columns of
// a product of few rows come from memory, and without this only the first tile would wait for all of it.
template <class Step>
void tile(TileInput in, std::int64_t num_rows, int num_vectors, typename Step::Element* c, std::int64_t c_step,
          bool accumulate) {
  constexpr std::int64_t kSharers = 4;        // tiles, of a cache line a step
  constexpr std::int64_t kColumnBytes = 256;  // of a step
  const std::int64_t num_tiles = (num_rows + Step::kRows - 1) / Step::kRows;
  const std::int64_t num_sharers = num_tiles < kSharers ? num_tiles : kSharers;
  if (in.ahead == nullptr)
    in.ahead = in.b;
  else
    in.ahead_step = (kColumnBytes + num_sharers - 1) / num_sharers;
  for (std::int64_t t = 0; t < num_tiles; ++t) {
    if (t == num_sharers) in.ahead_step = 0;
    const std::int64_t rows = num_rows / num_tiles + (t < num_rows % num_tiles ? 1 : 0);
    tile_rows<Step, Step::kRows>(rows, in, num_vectors, c, c_step, accumulate);
    in.a += rows * in.row_step;
    in.ahead += in.num_packs * in.ahead_step;
    c += rows * c_step;
  }
}

LLADA_INLINE void tile(DType dtype, const TileInput& in, std::int64_t num_rows, int num_vectors, float* c,
                       std::int64_t c_step, bool accumulate) {
  if (dtype == DType::kFloat32) return tile<Float32Step>(in, num_rows, num_vectors, c, c_step, accumulate);
  tile<BFloat16Step>(in, num_rows, num_vectors, c, c_step, accumulate);
}

// Elements in one pack.
LLADA_INLINE std::int64_t pack_of(DType dtype) {
  return dtype == DType::kFloat32 ? 1 : dtype == DType::kBFloat16 ? 2 : 4;
}

}  // namespace llada::cpu::LLADA_TABLE
