// What the selection of candidates goes by, one by one; the same for every table.
#pragma once

#include <limits>

#include "ops/ops.h"

namespace llada {

// Largest first; a NaN comes last.
LLADA_INLINE double commit_key(double confidence) {
  return confidence == confidence ? confidence : -std::numeric_limits<double>::infinity();
}

// How many of `n` candidates, best first, the group's rule takes unseen. kThreshold and kFactor take one where the loop
// would not end otherwise.
LLADA_INLINE std::int64_t num_unquestioned(const CommitGroup& group, std::int64_t n) {
  const std::int64_t least = group.select == Select::kTopK || group.count > 1 ? group.count : 1;
  return least < n ? least : n;
}

// Whether kThreshold or kFactor takes the candidate of that rank, given that it took all before it.
LLADA_INLINE bool passes(const CommitGroup& group, std::int64_t rank, double confidence) {
  if (group.select == Select::kThreshold) return confidence >= group.value;
  return static_cast<double>(rank + 2) * (1.0 - confidence) < group.value;  // n = rank + 1 of (n + 1) (1 - c_n) < f
}

}  // namespace llada
