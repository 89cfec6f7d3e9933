#include "model/batch.h"

namespace llada {

void ForwardBatch::clear() {
  tokens.clear();
  positions.clear();
  places.clear();
  has_gaps = false;
  wanted.clear();
  parts.clear();
}

void ForwardBatch::begin(SlotView slot, std::int64_t visible) {
  const std::int64_t row = static_cast<std::int64_t>(tokens.size());
  parts.push_back({row, row, visible, slot});
}

std::int64_t ForwardBatch::add(std::int32_t place) {
  Part& part = parts.back();
  tokens.push_back(part.slot.canvas[place]);
  const std::int32_t position = place + 1 == part.slot.length ? part.slot.last_position : place;
  positions.push_back(position);
  places.push_back(place);
  has_gaps = has_gaps || position != place;
  return part.row_end++;
}

}  // namespace llada
