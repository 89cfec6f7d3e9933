// The order of units that are a block of rows and a column each: bands of a few blocks, column by column within a band.
// Neighbours in this order go to one core (core/parallel.h). The core then finds in its caches the rows that it wrote
// in the op before, and uses a column for all blocks of the band.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace llada::cpu::LLADA_TABLE {

struct Cell {
  std::int64_t block;
  std::int64_t column;
};

struct Bands {
  std::int64_t num_blocks;
  std::int64_t num_columns;
  std::int64_t width;  // blocks of a band; the last one may have fewer

  // A band for each thread, but none wider than `most` blocks.
  LLADA_INLINE Bands(std::int64_t blocks, std::int64_t columns, std::int64_t num_threads, std::int64_t most)
      : num_blocks(blocks), num_columns(columns), width(blocks / num_threads) {
    width = width < 1 ? 1 : width < most ? width : most;
  }

  LLADA_INLINE std::int64_t num_units() const { return num_blocks * num_columns; }

  LLADA_INLINE Cell at(std::int64_t unit) const {
    const std::int64_t first = unit / (num_columns * width) * width;
    const std::int64_t here = num_blocks - first < width ? num_blocks - first : width;
    const std::int64_t inside = unit - first * num_columns;
    return {first + inside % here, inside / here};
  }
};

}  // namespace llada::cpu::LLADA_TABLE
