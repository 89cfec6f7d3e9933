// Which kernel multiplies: a pure function of shapes and of the device, so that it can be read and tested without one.
//
// The tier depends on the weight and the device alone, never on the number of rows: tiers add in different orders, and
// a row alone must get the bits that it gets in a batch.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace llada::cuda {

enum class ProductTier : std::int32_t { kPlain, kCutlassSm80, kCutlassSm90 };

// Tiles of the plain tier, rows x outputs. Sums are the same bits in each of them.
enum class ProductTileShape : std::int32_t { k32x32, k32x64, k32x128, k64x64, k128x128, k128x256 };

struct TileFacts {
  const char* name;
  std::int64_t rows;
  std::int64_t outputs;
  std::int64_t shared_bytes;  // at most, over the operand types
  double flop_per_clock;      // of bfloat16
};

// In the order of ProductTileShape. What limits the arithmetic of a multiprocessor of sm_90: shared memory gives 128
// bytes a clock, with which each warp reads its part of x and of the weights once for 16 inputs; mma.sync itself ends
// at about 2560.
inline constexpr TileFacts kTileFacts[] = {
    {"32x32", 32, 32, 87040, 1024}, {"32x64", 32, 64, 82944, 1365},      {"32x128", 32, 128, 92160, 2048},
    {"64x64", 64, 64, 73728, 2048}, {"128x128", 128, 128, 110592, 2560}, {"128x256", 128, 256, 221184, 2560},
};
constexpr const TileFacts& facts_of(ProductTileShape tile) { return kTileFacts[static_cast<int>(tile)]; }

struct ProductShape {
  std::int64_t num_rows = 0;
  std::int64_t num_outputs = 0;
  std::int64_t num_inputs = 0;
  DType rows = DType::kBFloat16;
  DType weight = DType::kBFloat16;
  bool aligned = true;  // rows of x lie at multiples of 16 bytes
};

struct ProductDevice {
  int capability = 80;  // 90 for sm_90
  std::int64_t num_processors = 1;
  std::int64_t shared_bytes = 0;  // that a block may ask for
  bool wants_cutlass = false;     // by LLADA_CUDA_PRODUCTS=cutlass, in a build that has it
};

// Tiles of kCutlassSm90, outputs x rows: there the weight is the left matrix.
enum class CutlassTileShape : std::int32_t { k64x32, k128x128, k256x128, k128x128Pairs, k256x128Pairs, k128x256Pairs };

struct ProductChoice {
  ProductTier tier = ProductTier::kPlain;
  ProductTileShape tile = ProductTileShape::k64x64;  // of the plain tier
  CutlassTileShape cutlass_tile = CutlassTileShape::k64x32;
};

// Where a tier has passed the tests and won its comparison.
struct Proof {
  ProductTier tier;
  const char* device;
  const char* date;
  const char* commit;
};

// The proof of a tier, or nullptr. Without one it runs only where it is asked for.
const Proof* proof_of(ProductTier tier);

ProductChoice choose_product(const ProductShape& shape, const ProductDevice& device);

const char* name_of(ProductTier tier);

}  // namespace llada::cuda
