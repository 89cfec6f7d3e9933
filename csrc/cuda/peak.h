// What the device does at best, measured: the roofs that a benchmark divides by.
#pragma once

#include "ops/ops.h"

namespace llada::cuda {

// GB/s of reading device memory, far more of it than the second-level cache holds. Throws OutOfMemoryError.
double measure_read_bandwidth(Stream stream);

}  // namespace llada::cuda
