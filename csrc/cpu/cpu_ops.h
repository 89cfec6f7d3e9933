// Adds the CPU tables that this machine can run to the registry, best first.
#pragma once

#include "core/parallel.h"
#include "ops/ops.h"

namespace llada::cpu {

void register_tables();

// The commit of ops.h; integers and comparisons only, so all tables share it.
void commit(Stream stream, const CandidateRow* rows, Candidate* candidates, const CommitGroup* groups,
            std::int64_t num_groups, std::int64_t* chosen);

}  // namespace llada::cpu
