// What the device does at best, measured: the roofs that a benchmark divides by. measure_peak (kernels.h) is the
// arithmetic one: of mma.sync; on sm_90, in a build with CUTLASS, of wgmma, which is half as fast again.
#pragma once

namespace llada::cuda {

// GB/s of reading the memory of a device, far more of it than the second-level cache holds. Throws DeviceError or
// OutOfMemoryError.
double measure_read_bandwidth(int index);

}  // namespace llada::cuda
