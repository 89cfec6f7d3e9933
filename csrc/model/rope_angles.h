// The rotation angles of each position, as the published model computes them: theta^(-2i/head_dim) and its product with
// the position in float32.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace llada {

// cos and sin of each position: (num_positions, head_dim) float32, the first half of a row cos, the second sin.
void fill_rope_angles(std::int64_t num_positions, std::int64_t head_dim, double theta, float* angles);
Buffer rope_angles(std::int64_t num_positions, std::int64_t head_dim, double theta);

}  // namespace llada
