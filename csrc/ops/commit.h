// What the selection of candidates goes by, one by one; the same for every table.
#pragma once

#include <limits>

#include "ops/ops.h"

namespace llada {

// Largest first; a NaN comes last.
LLADA_INLINE double commit_key(double confidence) {
  return confidence == confidence ? confidence : -std::numeric_limits<double>::infinity();
}

// Whether kLocalLeap takes candidate i of `own`, the group's n: an anchor, or sure enough for the nearness of one.
// Positions ascend, so what is near in the canvas is near in the group.
LLADA_INLINE bool leaps(const CommitGroup& group, const Candidate* own, std::int64_t n, std::int64_t i) {
  const double confidence = own[i].confidence;
  if (confidence >= group.value) return true;
  if (!(confidence >= group.near_value)) return false;
  for (std::int64_t j = i - 1; j >= 0 && own[i].position - own[j].position <= group.radius; --j)
    if (own[j].confidence >= group.value) return true;
  for (std::int64_t j = i + 1; j < n && own[j].position - own[i].position <= group.radius; ++j)
    if (own[j].confidence >= group.value) return true;
  return false;
}

// What the group's candidates are ordered by, so that those which its rule takes come first. A leap lifts a confidence
// above those without one; a power of two keeps their order to the last bit.
LLADA_INLINE double order_key(const CommitGroup& group, const Candidate* own, std::int64_t n, std::int64_t i) {
  const double key = commit_key(own[i].confidence);
  return group.select == Select::kLocalLeap && leaps(group, own, n, i) ? key * 0x1p1000 : key;
}

// How many of `n` candidates, best first, the group's rule takes unseen. All but kTopK take one where the loop would
// not end otherwise.
LLADA_INLINE std::int64_t num_unquestioned(const CommitGroup& group, std::int64_t n) {
  const std::int64_t least = group.select == Select::kTopK || group.count > 1 ? group.count : 1;
  return least < n ? least : n;
}

// Whether a rule goes by what the candidates taken so far add up to: these are summed in order, so that every table
// rounds alike.
LLADA_INLINE bool is_summed(Select select) { return select == Select::kFrechet || select == Select::kEntropyBound; }

// What the candidates taken so far add up to.
struct CommitSums {
  double deficit = 0;  // of 1 - confidence
  double entropy = 0;
  double largest_entropy = 0;

  LLADA_INLINE void add(const Candidate& candidate) {
    deficit += 1.0 - candidate.confidence;
    entropy += candidate.entropy;
    largest_entropy = candidate.entropy > largest_entropy ? candidate.entropy : largest_entropy;
  }
};

// Whether a rule that sums takes the candidate whose sums these are, its own share included.
LLADA_INLINE bool passes(const CommitGroup& group, const CommitSums& sums, const Candidate& candidate) {
  if (group.select == Select::kFrechet) return candidate.confidence - sums.deficit > group.value;
  return sums.entropy - sums.largest_entropy <= group.value;
}

// Whether any other rule but kTopK takes candidate i, the one of that rank, given that it took all before it.
LLADA_INLINE bool passes(const CommitGroup& group, std::int64_t rank, const Candidate* own, std::int64_t n,
                         std::int64_t i) {
  const double confidence = own[i].confidence;
  if (group.select == Select::kThreshold) return confidence >= group.value;
  if (group.select == Select::kLocalLeap) return leaps(group, own, n, i);
  return static_cast<double>(rank + 2) * (1.0 - confidence) < group.value;  // n = rank + 1 of (n + 1) (1 - c_n) < f
}

}  // namespace llada
