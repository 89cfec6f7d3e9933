// What the device does at best, measured: the roofs that a benchmark divides by. measure_peak (kernels.h) is the
// arithmetic one: of mma.sync; on sm_90, in a build with CUTLASS, of wgmma, which is half as fast again.
#pragma once

#include "ops/ops.h"

namespace llada::cuda {

// GB/s of reading device memory, far more of it than the second-level cache holds. Throws OutOfMemoryError.
double measure_read_bandwidth(Stream stream);

}  // namespace llada::cuda
