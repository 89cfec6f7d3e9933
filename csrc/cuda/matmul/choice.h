// Which kernel multiplies: a pure function of shapes and of the device, so that it can be read and tested without one.
//
// A row alone must get the bits that it gets in a batch, and the number of rows chooses the tile: so all tiles of a
// tier give the same bits. In bfloat16 CUTLASS's on sm_90 give those of the plain tier too (proven on an H200,
// benchmarks/results/gpu); in float8 they don't, so there the tier depends on the weight alone.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace llada::cuda {

enum class MatmulTier : std::int32_t { kPlain, kCutlassSm80, kCutlassSm90 };

// Tiles of the plain tier, rows x outputs. Sums are the same bits in each of them.
enum class MatmulTileShape : std::int32_t { k32x32, k32x64, k32x128, k64x64, k128x128, k128x256 };

struct TileFacts {
  const char* name;
  std::int64_t rows;
  std::int64_t outputs;
  std::int64_t shared_bytes;  // at most, over the operand types
  double flop_per_clock;      // of bfloat16
};

// In the order of MatmulTileShape. What limits the arithmetic of a multiprocessor of sm_90: shared memory gives 128
// bytes a clock, with which each warp reads its part of x and of the weights once for 16 inputs; mma.sync itself ends
// at about 2560.
inline constexpr TileFacts kTileFacts[] = {
    {"32x32", 32, 32, 87040, 1024}, {"32x64", 32, 64, 82944, 1365},      {"32x128", 32, 128, 92160, 2048},
    {"64x64", 64, 64, 73728, 2048}, {"128x128", 128, 128, 110592, 2560}, {"128x256", 128, 256, 221184, 2560},
};
constexpr const TileFacts& facts_of(MatmulTileShape tile) { return kTileFacts[static_cast<int>(tile)]; }

struct MatmulShape {
  std::int64_t num_rows = 0;
  std::int64_t num_outputs = 0;
  std::int64_t num_inputs = 0;
  DType rows = DType::kBFloat16;
  DType weight = DType::kBFloat16;
  bool aligned = true;      // rows of x lie at multiples of 16 bytes
  bool fills_rows = false;  // the end writes zeros behind what it computes
};

struct MatmulDevice {
  int capability = 80;  // 90 for sm_90
  std::int64_t num_processors = 1;
  std::int64_t shared_bytes = 0;  // that a block may ask for
  bool wants_cutlass = false;     // see SessionOptions
};

// Tiles of kCutlassSm90, outputs x rows: there the weight is the left matrix.
enum class CutlassTileShape : std::int32_t { k64x32, k64x64, k64x128, k128x128, k128x256Pairs };

struct CutlassTileFacts {
  const char* name;
  std::int64_t outputs;
  std::int64_t rows;
  bool float8;  // there is one for it
};
// In the order of CutlassTileShape.
inline constexpr CutlassTileFacts kCutlassTileFacts[] = {{"64x32", 64, 32, true},
                                                         {"64x64", 64, 64, false},
                                                         {"64x128", 64, 128, false},
                                                         {"128x128", 128, 128, true},
                                                         {"128x256 pairs", 128, 256, false}};

struct MatmulChoice {
  MatmulTier tier = MatmulTier::kPlain;
  MatmulTileShape tile = MatmulTileShape::k64x64;  // of the plain tier
  CutlassTileShape cutlass_tile = CutlassTileShape::k64x32;
};

MatmulChoice choose_matmul(const MatmulShape& shape, const MatmulDevice& device);

const char* name_of(MatmulTier tier);

}  // namespace llada::cuda
