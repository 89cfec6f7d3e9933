#include "model/batch.h"

namespace llada {

void ForwardBatch::clear() {
  tokens.clear();
  positions.clear();
  places.clear();
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
  positions.push_back(place + 1 == part.slot.length ? part.slot.last_position : place);
  places.push_back(place);
  return part.row_end++;
}

}  // namespace llada
