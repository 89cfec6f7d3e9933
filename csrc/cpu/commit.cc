// Batched selection: which candidates of each sequence are to be committed.
#include <algorithm>
#include <limits>
#include <numeric>

#include "cpu/cpu_ops.h"

namespace llada::cpu {
namespace {

// How many of `n` candidates, best first, the group's rule takes; at least one where the loop would not end otherwise.
template <class ConfidenceOf>
std::int64_t num_selected(const CommitGroup& group, std::int64_t n, const ConfidenceOf& confidence_of) {
  if (group.select == Select::kTopK) return std::min(n, group.count);
  std::int64_t taken = std::min<std::int64_t>(n, 1);
  const auto passes = [&](std::int64_t rank) {
    const double confidence = confidence_of(rank);
    if (group.select == Select::kThreshold) return confidence >= group.value;
    return static_cast<double>(rank + 2) * (1.0 - confidence) < group.value;  // n = rank + 1 of (n + 1) (1 - c_n) < f
  };
  while (taken < n && passes(taken)) ++taken;
  return taken;
}

void commit_group(Candidate* candidates, const CommitGroup& group, std::int64_t* chosen) {
  const std::int64_t n = group.end - group.begin;
  const auto unusable = [](const Candidate& candidate) { return candidate.token < 0; };
  if (std::any_of(candidates + group.begin, candidates + group.end, unusable)) {
    std::fill(chosen, chosen + n, -1);
    return;
  }
  std::iota(chosen, chosen + n, group.begin);
  // Highest confidence first, then lower position. Not stable_sort: that one asks for memory.
  const auto key = [&](std::int64_t i) {
    const double confidence = candidates[i].confidence;
    return confidence == confidence ? confidence : -std::numeric_limits<double>::infinity();
  };
  std::sort(chosen, chosen + n,
            [&](std::int64_t a, std::int64_t b) { return key(a) > key(b) || (key(a) == key(b) && a < b); });
  std::int64_t taken = num_selected(group, n, [&](std::int64_t rank) { return candidates[chosen[rank]].confidence; });
  const bool all_masks =
      std::all_of(chosen, chosen + taken, [&](std::int64_t i) { return candidates[i].token == group.mask_id; });
  if (group.select != Select::kTopK && taken > 0 && all_masks) {
    // The published loop would write the mask over itself for ever: commit the best token that is one.
    const auto best = std::max_element(chosen, chosen + n, [&](std::int64_t a, std::int64_t b) {
      return candidates[a].other_confidence < candidates[b].other_confidence ||
             (candidates[a].other_confidence == candidates[b].other_confidence && a > b);
    });
    candidates[*best].token = candidates[*best].other_token;
    candidates[*best].confidence = candidates[*best].other_confidence;
    candidates[*best].log_prob = candidates[*best].other_log_prob;
    chosen[0] = *best;
    taken = 1;
  }
  std::fill(chosen + taken, chosen + n, -1);
}

}  // namespace

void commit(Stream, Candidate* candidates, std::int64_t, const CommitGroup* groups, std::int64_t num_groups,
            std::int64_t* chosen) {
  for (std::int64_t g = 0; g < num_groups; ++g) commit_group(candidates, groups[g], chosen + groups[g].begin);
}

}  // namespace llada::cpu
