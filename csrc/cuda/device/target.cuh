// What device code is written in: CUDA C++ under nvcc; under a host compiler an imitation that runs the same kernels on
// the processor, thread by thread, for tests (tests/cpp/cuda_host). Kernel files include this and no header of CUDA.
#pragma once

#if defined(__CUDACC__)
#include <cuda_runtime.h>

// LLADA_SHARED_MEMORY(name): the dynamic shared memory of the block, aligned to 128 bytes.
#define LLADA_SHARED_MEMORY(name) extern __shared__ __align__(128) char name[]
#else
#include <cuda_host/cuda_host.h>
#endif

#include "core/dtype.h"
