// Where things lie in a packed weight on the device; kernels.h says what they are.
#pragma once

#include "ops/ops.h"

namespace llada::cuda {

struct PackedLayout {
  std::int64_t num_rows;    // outputs, with the padding of paired ones
  std::int64_t row_bytes;   // a multiple of 16
  std::int64_t scales_at;   // bytes from the beginning
  std::int64_t scale_step;  // floats of an output: 0, 1, or those of its int4 groups rounded up to a multiple of 4
  std::int64_t num_bytes;
};

PackedLayout layout_of(const PackedWeight& form);

}  // namespace llada::cuda
