#include "denoise/plan_check.h"

#include <utility>

#include "core/check.h"

namespace llada {
namespace {

// Whether a value that came over the border is one of an enumeration's.
template <class Enum, std::size_t kCount>
bool is_named(Enum value, const char* const (&)[kCount]) {
  return static_cast<std::int32_t>(value) >= 0 && static_cast<std::int32_t>(value) < static_cast<std::int32_t>(kCount);
}

// Whether a set holds a token that can be a candidate.
bool allows_any(const SequencePlan& plan, const std::uint32_t* set, std::int64_t vocab_size) {
  for (std::int64_t word = 0; word < set_words(vocab_size); ++word) {
    std::uint32_t bits = set[word];
    for (const std::int32_t token : {plan.sampling.mask_id, plan.sampling.suppressed_token})
      if (token >= 0 && token / 32 == word) bits &= ~(1u << (token % 32));
    const std::int64_t left = vocab_size - 32 * word;
    if (left < 32) bits &= (1u << left) - 1u;
    if (bits != 0) return true;
  }
  return false;
}

}  // namespace

void check_plan(const StepPlan& plan, KvPool& pool, std::int64_t vocab_size) {
  const auto expect = [](bool ok, std::int64_t s, const char* what) {
    check(ok, ErrorKind::kInvalidRequest, "sequence ", s, " of the plan: expected ", what);
  };
  check(plan.max_steps >= 1, ErrorKind::kInvalidRequest, "expected max_steps of at least 1, got ", plan.max_steps);
  for (std::int64_t s = 0; s < plan.num_sequences; ++s) {
    const SequencePlan& p = plan.sequences[s];
    const std::int32_t length = pool.at(p.slot).length();
    expect(p.guide_slot < 0 || pool.at(p.guide_slot).length() == length, s, "a guide as long as its canvas");
    expect(0 <= p.commit_start && p.commit_start <= p.block_start && p.block_start < p.block_stop &&
               p.block_stop <= length,
           s, "0 <= commit_start <= block_start < block_stop <= length of the canvas");
    const SelectRule& select = p.select;
    const SamplingRule& sampling = p.sampling;
    expect(is_named(select.kind, kSelectNames), s, "the number of a select rule");
    expect(is_named(sampling.score, kScoreNames), s, "the number of a score");
    expect(sampling.num_alternatives >= 0 && sampling.num_alternatives <= kMostAlternatives, s, "0 to 20 alternatives");
    const std::int32_t fewest_steps = select.kind == Select::kTopK ? 1 : 0;
    expect(select.num_steps >= fewest_steps && select.num_masked >= 0 && select.next_step >= 0 && select.count >= 0, s,
           "counts from 0, and of top_k a schedule of at least one step");
    expect(select.kind != Select::kLocalLeap || (select.near_value > 0 && select.value > 0 && select.radius >= 0), s,
           "of local_leap confidences above 0 and a radius from 0");
    expect(select.alpha == 0 || (select.kind == Select::kThreshold && 0 < select.alpha && select.alpha <= 1), s,
           "an alpha from 0 to 1, and only of threshold");
    expect(p.post_steps >= 0 && select.max_post_steps >= 0, s, "counts of steps from 0");
    expect(0 <= p.editable_begin && p.editable_begin <= p.editable_end && p.editable_end <= plan.num_spans, s,
           "a range of the spans to be edited");
    for (std::int32_t i = p.editable_begin; i < p.editable_end; ++i)
      expect(p.commit_start <= plan.spans[i].start && plan.spans[i].stop <= p.block_stop, s,
             "edits from commit_start to block_stop");
    for (const auto& [begin, end] : {std::pair(p.first_begin, p.first_end), std::pair(p.next_begin, p.next_end)}) {
      expect(0 <= begin && begin < end && end <= plan.num_spans, s, "a non-empty range of the spans");
      std::int32_t from = 0;
      for (std::int32_t i = begin; i < end; ++i) {
        const QuerySpan& span = plan.spans[i];
        expect(from <= span.start && span.start < span.stop && span.stop <= span.visible && span.visible <= length, s,
               "ascending spans with start < stop <= visible <= length of the canvas");
        from = span.stop;
      }
    }
    if (is_scored(p)) {
      expect(0 <= p.targets_begin && p.targets_end - p.targets_begin == length && p.targets_end <= plan.num_targets, s,
             "a target for each position");
      expect(select.kind == Select::kTopK && select.num_masked == 0 && !has_edits(p), s,
             "an empty schedule and no edits beside targets");
      for (std::int32_t i = p.targets_begin; i < p.targets_end; ++i)
        expect(plan.targets[i] < vocab_size, s, "targets from the vocabulary");
    }
    expect(p.border_stop == 0 || (p.block_start < p.border_stop && p.border_stop <= length), s,
           "a border after the block's start, on the canvas");
    expect(!has_border(p) || (plan.max_steps == 1 && !is_scored(p) && !is_proposed(p) && !has_edits(p)), s,
           "one step, and no targets, proposal or edits beside a border");
    expect(!has_border(p) || (p.border_probability > 0 && p.allowed_begin == p.allowed_end), s,
           "of a border a probability above 0, and no sets of allowed tokens beside it");
    expect(0 <= p.allowed_begin && p.allowed_begin <= p.allowed_end && p.allowed_end <= plan.num_sets, s,
           "a range of the sets of allowed tokens");
    std::int32_t from = p.block_start;
    for (std::int32_t i = p.allowed_begin; i < p.allowed_end; ++i) {
      const std::int32_t position = plan.allowed_positions[i];
      expect(from <= position && position < p.block_stop, s,
             "sets of allowed tokens at ascending positions of the block");
      expect(allows_any(p, plan.allowed + i * set_words(vocab_size), vocab_size), s,
             "sets with a token that is neither the mask id nor suppressed");
      from = position + 1;
    }
    for (std::int64_t other = 0; other < s; ++other)
      expect(plan.sequences[other].slot != p.slot, s, "a slot of its own");
  }
}

}  // namespace llada
