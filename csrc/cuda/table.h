// The table of the CUDA backend.
#pragma once

#include "ops/ops.h"

namespace llada::cuda {

const Ops& table();

}  // namespace llada::cuda
