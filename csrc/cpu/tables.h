// Adds the CPU tables that this machine can run to the registry, best first.
#pragma once

#include "core/parallel.h"
#include "ops/ops.h"

namespace llada::cpu {

void register_tables();

// The ops that are no work for an instruction set, so all tables share them.
bool multiplies(DType rows, DType weight);
void keep_rows(Stream stream, const std::int32_t* rows, std::int64_t num_kept, Tensor x);
void commit(Stream stream, Candidate* candidates, std::int64_t num_candidates, const CommitGroup* groups,
            std::int64_t num_groups, std::int64_t* chosen);
void finish(Stream stream);

}  // namespace llada::cpu
