// Batched selection: which candidates of each sequence are to be committed.
#include "ops/commit.h"

#include <algorithm>
#include <numeric>

#include "cpu/tables.h"

namespace llada::cpu {
namespace {

// How many of the group's n candidates its rule takes. ordered: candidates of the group, those to be taken first.
std::int64_t num_selected(const CommitGroup& group, const Candidate* own, std::int64_t n, const std::int64_t* ordered) {
  const std::int64_t least = num_unquestioned(group, n);
  if (group.select == Select::kTopK) return least;
  const bool summed = is_summed(group.select);
  std::int64_t taken = summed ? 0 : least;
  for (CommitSums sums; taken < n; ++taken) {
    const std::int64_t i = ordered[taken] - group.begin;
    if (summed) sums.add(own[i]);
    if (taken < least) continue;
    if (!(summed ? passes(group, sums, own[i]) : passes(group, taken, own, n, i))) break;
  }
  return taken;
}

void commit_group(Candidate* candidates, const CommitGroup& group, std::int64_t* chosen) {
  const std::int64_t n = group.end - group.begin;
  const Candidate* const own = candidates + group.begin;
  const auto unusable = [](const Candidate& candidate) { return candidate.token < 0; };
  if (std::any_of(candidates + group.begin, candidates + group.end, unusable)) {
    std::fill(chosen, chosen + n, -1);
    return;
  }
  std::iota(chosen, chosen + n, group.begin);
  // Highest key first, then lower position. Not stable_sort: that one asks for memory.
  const auto sort_by = [&](const auto& key) {
    std::sort(chosen, chosen + n,
              [&](std::int64_t a, std::int64_t b) { return key(a) > key(b) || (key(a) == key(b) && a < b); });
  };
  if (group.select == Select::kLocalLeap)
    sort_by([&](std::int64_t i) { return order_key(group, own, n, i - group.begin); });
  else  // the same, without a question for each comparison
    sort_by([&](std::int64_t i) { return commit_key(candidates[i].confidence); });
  std::int64_t taken = num_selected(group, own, n, chosen);
  const bool all_masks =
      std::all_of(chosen, chosen + taken, [&](std::int64_t i) { return candidates[i].token == group.mask_id; });
  if (group.select != Select::kTopK && taken > 0 && all_masks) {
    // The published loop would write the mask over itself for ever: commit the best token that is one.
    const auto other = [&](std::int64_t i) { return commit_key(candidates[i].other_confidence); };
    const auto best = std::max_element(chosen, chosen + n, [&](std::int64_t a, std::int64_t b) {
      return other(a) < other(b) || (other(a) == other(b) && a > b);
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
