// What the device does at best, measured: the roofs that a benchmark divides by. measure_peak (kernels.h) is the
// arithmetic roof of mma.sync. On sm_90, in a build with CUTLASS, that of wgmma is taken, which is half as fast again.
#pragma once

namespace llada::cuda {

// GB/s of reading the memory of a device, far more of it than the second-level cache holds. Throws DeviceError or
// OutOfMemoryError.
double measure_read_bandwidth(int index);

}  // namespace llada::cuda
