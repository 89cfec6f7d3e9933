#include "cuda/matmul/choice.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace llada::cuda {
namespace {

// Bytes a clock that one multiprocessor can load, and its share when all of them do, from the second-level cache.
constexpr double kLoadBytes = 48, kSharedLoadBytes = 24;

double bytes_of_inputs(DType dtype, std::int64_t num_inputs) {
  return dtype == DType::kInt4 ? 0.625 * static_cast<double>(num_inputs)
                               : static_cast<double>(bytes_of(dtype, num_inputs));
}

// Clocks of a product in tiles, by what its tiles load and multiply. Coarse, but it tells the tiles apart: small ones
// load x and weights more often, large ones leave multiprocessors idle.
double clocks(const MatmulShape& shape, const MatmulDevice& device, const TileFacts& tile) {
  const auto tiles_of = [](std::int64_t count, std::int64_t tile_size) { return (count + tile_size - 1) / tile_size; };
  const std::int64_t num_tiles = tiles_of(shape.num_rows, tile.rows) * tiles_of(shape.num_outputs, tile.outputs);
  const double rounds = static_cast<double>(tiles_of(num_tiles, device.num_processors));
  const double x_bytes = bytes_of_inputs(shape.rows, shape.num_inputs);
  const double tile_bytes = static_cast<double>(tile.rows) * x_bytes +
                            static_cast<double>(tile.outputs) * bytes_of_inputs(shape.weight, shape.num_inputs);
  // Byte products have twice the inputs in the same steps: 2 x_bytes / 2.
  const double tile_flop = static_cast<double>(tile.rows * tile.outputs) * x_bytes;
  const double loading =
      static_cast<double>(num_tiles) * tile_bytes / (kSharedLoadBytes * static_cast<double>(device.num_processors));
  return loading + rounds * std::max(tile_bytes / kLoadBytes, tile_flop / tile.flop_per_clock);
}

// float32 is for tests, and rows at odd places are those of tiny models: one tile does.
bool has_one_tile(const MatmulShape& shape) {
  return shape.rows == DType::kFloat32 || (shape.rows == DType::kBFloat16 && !shape.aligned);
}

// The largest tile's sums leave no registers to widen float8 in.
bool has_tile(const MatmulShape& shape, const MatmulDevice& device, const TileFacts& tile) {
  const bool largest = &tile == &facts_of(MatmulTileShape::k128x256);
  return tile.shared_bytes <= device.shared_bytes && !(largest && shape.rows == DType::kFloat8);
}

MatmulTier choose_tier(const MatmulShape& shape, const MatmulDevice& device) {
  const bool fits = shape.rows == shape.weight && shape.num_inputs % 16 == 0 && shape.num_outputs % 16 == 0;
  if (!device.wants_cutlass || !fits || !shape.aligned || shape.fills_rows) return MatmulTier::kPlain;
  if (device.capability == 90 && (shape.rows == DType::kBFloat16 || shape.rows == DType::kFloat8))
    return MatmulTier::kCutlassSm90;
  return shape.rows == DType::kBFloat16 ? MatmulTier::kCutlassSm80 : MatmulTier::kPlain;
}

// Clocks of a product by wgmma: the largest of what weights take from memory, what all tiles take from the second-level
// cache, and what the rounds of a multiprocessor take. Rates measured on an H200.
double wgmma_clocks(const MatmulShape& shape, const MatmulDevice& device, const CutlassTileFacts& tile) {
  constexpr double kMemoryBytes = 18, kCacheBytes = 44, kFlop = 3800;  // a clock and multiprocessor
  const auto tiles_of = [](std::int64_t count, std::int64_t tile_size) { return (count + tile_size - 1) / tile_size; };
  const double num_processors = static_cast<double>(device.num_processors);
  const double num_tiles =
      static_cast<double>(tiles_of(shape.num_outputs, tile.outputs) * tiles_of(shape.num_rows, tile.rows));
  const double rounds = std::ceil(num_tiles / num_processors);
  const double input_bytes = bytes_of_inputs(shape.weight, shape.num_inputs);
  const double tile_bytes = static_cast<double>(tile.outputs + tile.rows) * input_bytes;
  const double tile_flop =
      static_cast<double>(tile.outputs * tile.rows) * input_bytes;  // bytes: two inputs in one step
  const double memory = static_cast<double>(shape.num_outputs) * input_bytes / (kMemoryBytes * num_processors);
  const double cache = num_tiles * tile_bytes / (kCacheBytes * num_processors);
  return std::max({memory, cache, rounds * std::max(tile_bytes / kCacheBytes, tile_flop / kFlop)});
}

CutlassTileShape choose_cutlass_tile(const MatmulShape& shape, const MatmulDevice& device) {
  int best = 0;
  for (int i = 1; i < static_cast<int>(std::size(kCutlassTileFacts)); ++i) {
    const CutlassTileFacts& tile = kCutlassTileFacts[i];
    if (shape.rows == DType::kFloat8 && !tile.float8) continue;
    if (wgmma_clocks(shape, device, tile) < wgmma_clocks(shape, device, kCutlassTileFacts[best])) best = i;
  }
  return static_cast<CutlassTileShape>(best);
}

}  // namespace

const char* name_of(MatmulTier tier) {
  constexpr const char* kNames[] = {"plain", "cutlass_sm80", "cutlass_sm90"};
  return kNames[static_cast<int>(tier)];
}

MatmulChoice choose_matmul(const MatmulShape& shape, const MatmulDevice& device) {
  MatmulChoice choice;
  choice.tier = choose_tier(shape, device);
  choice.cutlass_tile = choose_cutlass_tile(shape, device);
  if (has_one_tile(shape)) return choice;
  double best = clocks(shape, device, facts_of(choice.tile));
  for (const TileFacts& tile : kTileFacts) {
    if (!has_tile(shape, device, tile)) continue;
    const double cost = clocks(shape, device, tile);
    if (cost >= best) continue;
    best = cost;
    choice.tile = static_cast<MatmulTileShape>(&tile - kTileFacts);
  }
  return choice;
}

}  // namespace llada::cuda
