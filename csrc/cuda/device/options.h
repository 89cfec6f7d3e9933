// What the environment asks of the backend. The variables are read whenever a session is opened, so that two engines of
// one process can differ.
#pragma once

#include "cuda/device/facts.h"

namespace llada::cuda {

struct SessionOptions {
  bool cutlass = false;       // LLADA_CUDA_PRODUCTS: "cutlass" or "plain"; of itself on sm_90, where it is proven
  bool early_launch = false;  // LLADA_CUDA_EARLY_LAUNCH: "1" (or nothing) or "0"; on sm_90 and later
};

// Throws ConfigError.
SessionOptions session_options(const DeviceFacts& facts);

// Whether this build has the matmuls of CUTLASS.
bool has_cutlass();

}  // namespace llada::cuda
