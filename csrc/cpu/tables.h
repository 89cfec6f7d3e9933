// Adds the CPU tables that this machine can run to the registry, best first.
#pragma once

#include <type_traits>

#include "ops/ops.h"

namespace llada::cpu {

void register_tables();

// The ops that are no work for an instruction set, so all tables share them.
std::remove_pointer_t<decltype(Ops::multiplies)> multiplies;
std::remove_pointer_t<decltype(Ops::keep_rows)> keep_rows;
std::remove_pointer_t<decltype(Ops::commit)> commit;
std::remove_pointer_t<decltype(Ops::finish)> finish;

}  // namespace llada::cpu
