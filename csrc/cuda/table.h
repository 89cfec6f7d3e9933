// The table of the CUDA backend.
#pragma once

#include "ops/ops.h"

namespace llada::cuda {

const Ops& table();

// What a session takes of the device beside what its engine allots: the first pieces of what steps exchange with the
// host, and at most the sums of attention that is split over keys.
std::int64_t session_bytes();

}  // namespace llada::cuda
