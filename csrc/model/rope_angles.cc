#include "model/rope_angles.h"

#include <cmath>

namespace llada {

void fill_rope_angles(std::int64_t num_positions, std::int64_t head_dim, double theta, float* angles) {
  const std::int64_t half = head_dim / 2;
  for (std::int64_t i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    const float frequency = 1.0f / std::pow(static_cast<float>(theta), exponent);
    for (std::int64_t position = 0; position < num_positions; ++position) {
      const float phase = static_cast<float>(position) * frequency;
      angles[position * head_dim + i] = std::cos(phase);
      angles[position * head_dim + half + i] = std::sin(phase);
    }
  }
}

Buffer rope_angles(std::int64_t num_positions, std::int64_t head_dim, double theta) {
  Buffer memory(num_positions * head_dim * 4);
  fill_rope_angles(num_positions, head_dim, theta, reinterpret_cast<float*>(memory.data()));
  return memory;
}

}  // namespace llada
