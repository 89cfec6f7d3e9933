// The one inner kernel of the house: a tile of float32 sums of rows times columns, the rows broadcast, the columns in
// lanes. Matrix products, q k^T, p v and the head all run on it; only the strides differ.
#pragma once

#include "cpu/simd/simd.h"

namespace llada::cpu::LLADA_TABLE {

constexpr std::int64_t kPanel = 64;  // columns of a packed panel and of every scratch tile

// All steps in bytes; the inner dimension counts packs of 4 bytes (1 float32 or 2 bfloat16).
struct TileInput {
  const char* a;  // rows
  std::int64_t row_step;
  const char* b;             // columns, 16 lanes of 4 bytes
  std::int64_t vector_step;  // to the next 16 columns
  std::int64_t inner_step;   // to the next pack
  std::int64_t num_packs;
};

// c[r][16 j ..] (+)= a[r] b for ROWS rows and VECTORS vectors. The loops over the accumulators must be unrolled for
// them to stay in registers; the sum of one element runs in the order of the inner dimension whatever the tile.
template <class Step, int ROWS, int VECTORS>
LLADA_INLINE void tile_kernel(const TileInput& in, float* c, std::int64_t c_step, bool accumulate) {
  F32 acc[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) acc[r][j] = accumulate ? load(c + r * c_step + j * kLanes) : zero();
  const char* a = in.a;
  const char* b = in.b;
  for (std::int64_t k = 0; k < in.num_packs; ++k, a += 4, b += in.inner_step) {
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
LLADA_INLINE void tile_columns(TileInput in, int num_vectors, float* c, std::int64_t c_step, bool accumulate) {
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

// c (num_rows, 16 num_vectors), rows c_step floats apart.
template <class Step>
void tile(TileInput in, std::int64_t num_rows, int num_vectors, float* c, std::int64_t c_step, bool accumulate) {
  std::int64_t r = 0;
  for (; r + kTileRows <= num_rows; r += kTileRows, in.a += kTileRows * in.row_step)
    tile_columns<Step, kTileRows>(in, num_vectors, c + r * c_step, c_step, accumulate);
  c += r * c_step;
  switch (num_rows - r) {
    case 1:
      return tile_columns<Step, 1>(in, num_vectors, c, c_step, accumulate);
    case 2:
      if constexpr (kTileRows > 2) return tile_columns<Step, 2>(in, num_vectors, c, c_step, accumulate);
    case 3:
      if constexpr (kTileRows > 3) return tile_columns<Step, 3>(in, num_vectors, c, c_step, accumulate);
    case 4:
      if constexpr (kTileRows > 4) return tile_columns<Step, 4>(in, num_vectors, c, c_step, accumulate);
    case 5:
      if constexpr (kTileRows > 5) return tile_columns<Step, 5>(in, num_vectors, c, c_step, accumulate);
    default:
      return;
  }
}

LLADA_INLINE void tile(DType dtype, const TileInput& in, std::int64_t num_rows, int num_vectors, float* c,
                       std::int64_t c_step, bool accumulate) {
  if (dtype == DType::kFloat32) return tile<Float32Step>(in, num_rows, num_vectors, c, c_step, accumulate);
  tile<BFloat16Step>(in, num_rows, num_vectors, c, c_step, accumulate);
}

// Elements of T in one pack.
LLADA_INLINE std::int64_t pack_of(DType dtype) { return dtype == DType::kFloat32 ? 1 : 2; }

// A panel of 64 columns against rows of x, the inner dimension in blocks that leave the panel's block in the L2 cache
// while every row passes over it. x: rows in T, row_bytes apart; panel: [num_packs][64] packs; c: (num_rows, 64).
LLADA_INLINE void panel_product(DType dtype, const char* x, std::int64_t row_bytes, const char* panel,
                                std::int64_t num_packs, std::int64_t num_rows, float* c, std::int64_t c_step) {
  constexpr std::int64_t kBlock = 512;  // packs: 128 KiB of panel
  for (std::int64_t k = 0; k < num_packs; k += kBlock) {
    const std::int64_t block = num_packs - k < kBlock ? num_packs - k : kBlock;
    const TileInput in{x + 4 * k, row_bytes, panel + k * kPanel * 4, 4 * kLanes, 4 * kPanel, block};
    tile(dtype, in, num_rows, static_cast<int>(kPanel / kLanes), c, c_step, k > 0);
  }
}

}  // namespace llada::cpu::LLADA_TABLE
