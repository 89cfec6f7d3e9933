// What is wrong with a plan, before anything of it runs.
#pragma once

#include <cstdint>

#include "denoise/plan.h"
#include "model/kv_pool.h"

namespace llada {

// Throws InvalidRequestError, which names the sequence, for a plan that does not fit its slots.
void check_plan(const StepPlan& plan, KvPool& pool, std::int64_t vocab_size);

}  // namespace llada
