// The table of the CUDA backend, and what there is to know of the devices before it is used.
#pragma once

#include "ops/ops.h"

namespace llada::cuda {

const Ops& table();

}  // namespace llada::cuda
