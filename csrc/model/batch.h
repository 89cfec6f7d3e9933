// What one forward computes, as plain values: the rows, and which slots they belong to.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/ops.h"

namespace llada {

// Positions [start, stop) of a slot, recomputed in this forward; they see [0, visible).
struct QuerySpan {
  std::int32_t start = 0;
  std::int32_t stop = 0;
  std::int32_t visible = 0;
};

// A slot as a forward sees it: the tokens of its canvas, and K and V of each layer. A view owns neither.
struct SlotView {
  const std::int32_t* canvas = nullptr;
  std::int32_t length = 0;
  std::int32_t last_position = 0;  // of the token at the end of the canvas; those before have their index
  const KvView* layers = nullptr;
};

// The rows of one forward, part by part. Only the rows in `wanted` need a hidden state; the others matter
// for their K and V.
struct ForwardBatch {
  std::vector<std::int32_t> tokens;     // (num_rows)
  std::vector<std::int32_t> positions;  // (num_rows)
  std::vector<std::int32_t> places;     // (num_rows), in the slot
  bool has_gaps = false;                // a place is not its position: a canvas leaves positions out
  std::vector<std::int64_t> wanted;     // (num_wanted) ascending row indices
  struct Part {
    std::int64_t row_begin;
    std::int64_t row_end;
    std::int64_t visible;
    SlotView slot;
  };
  std::vector<Part> parts;

  void clear();
  // Begins a part: rows of one slot that see [0, visible).
  void begin(SlotView slot, std::int64_t visible);
  // Appends the row of a place in the slot's canvas to the part. Returns the row.
  std::int64_t add(std::int32_t place);
};

}  // namespace llada
