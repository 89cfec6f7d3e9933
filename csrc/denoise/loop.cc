#include "denoise/loop.h"

#include <algorithm>
#include <chrono>

#include "denoise/plan_check.h"

namespace llada {
namespace {

using Clock = std::chrono::steady_clock;

std::int32_t count_masks(const std::vector<std::int32_t>& canvas, const SequencePlan& plan, std::int64_t block_stop) {
  return static_cast<std::int32_t>(
      std::count(canvas.begin() + plan.block_start, canvas.begin() + block_stop, plan.sampling.mask_id));
}

// LLaDA's schedule: num_masked spread over num_steps, the first ones take one more. Without steps all zeros.
std::int64_t num_scheduled(const SelectRule& rule, std::int32_t step) {
  if (step >= rule.num_steps) return 0;
  return rule.num_masked / rule.num_steps + (step < rule.num_masked % rule.num_steps ? 1 : 0);
}

// What a step commits at least; of top_k, what it commits.
std::int64_t least_commits(const SelectRule& rule, std::int32_t step) {
  if (rule.kind == Select::kPropose) return 0;
  const std::int64_t scheduled = num_scheduled(rule, step);
  return rule.kind == Select::kTopK ? scheduled : std::max(rule.count, scheduled);
}

bool is_scheduled_out(const SelectRule& rule, std::int32_t step) {
  // Counts never grow along the schedule: a zero means that only zeros follow.
  if (rule.kind == Select::kTopK) return num_scheduled(rule, step) == 0;
  return rule.num_steps > 0 && step >= rule.num_steps;
}

// After the steps that the outcome counts. `is_still`: the last one found no mask and edited nothing.
bool is_done(const SequencePlan& plan, const SequenceOutcome& outcome, bool is_still) {
  if (is_scored(plan)) return outcome.num_steps > 0;
  if (is_proposed(plan)) return outcome.num_masked == 0 || outcome.num_steps > 0;
  if (outcome.num_masked > 0) return is_scheduled_out(plan.select, plan.select.next_step + outcome.num_steps);
  if (!has_edits(plan) || is_still) return true;
  return std::int64_t{plan.post_steps} + outcome.num_post_steps >= plan.select.max_post_steps;
}

bool is_editable(const StepPlan& plan, const SequencePlan& sequence, std::int32_t position, std::int32_t token) {
  if (token == sequence.sampling.mask_id) return false;
  const auto holds = [&](const QuerySpan& span) { return span.start <= position && position < span.stop; };
  return std::any_of(plan.spans + sequence.editable_begin, plan.spans + sequence.editable_end, holds);
}

// The row of that position if it is the next one there.
CandidateRow* take(std::vector<CandidateRow>& rows, std::size_t& next, std::int32_t position) {
  return next < rows.size() && rows[next].position == position ? &rows[next++] : nullptr;
}

// The value of a step's rule. A threshold with an alpha falls as the canvas fills: tau (1 - alpha (1 - r)), with r the
// share of masks in the block and what it sees after it (Streaming-dLLM). That is the same whatever a cache recomputes.
double value_of(const SequencePlan& plan, const std::vector<std::int32_t>& canvas, std::int32_t visible) {
  const SelectRule& rule = plan.select;
  if (rule.alpha == 0) return rule.value;
  const auto begin = canvas.begin() + plan.block_start, end = canvas.begin() + std::max(visible, plan.block_stop);
  const double masked =
      static_cast<double>(std::count(begin, end, plan.sampling.mask_id)) / static_cast<double>(end - begin);
  return rule.value * (1.0 - rule.alpha * (1.0 - masked));
}

SamplingRule sampling_rule(const SequencePlan& plan, std::int32_t step) {
  SamplingRule rule = plan.sampling;
  rule.step = plan.step + step;
  return rule;
}

}  // namespace

StepResult DenoisingLoop::run(Stream stream, const StepPlan& plan) {
  check_plan(plan, pool_, weights_.head.num_out);
  StepResult result;
  bool any_done = plan.num_sequences == 0;
  std::size_t most_commits = 0;  // of the call, without edits: with room for them a step allocates nothing
  std::size_t most_alternatives = 0;
  for (std::int64_t s = 0; s < plan.num_sequences; ++s) {
    const SequencePlan& sequence = plan.sequences[s];
    const std::int32_t num_masked = count_masks(pool_.at(sequence.slot).canvas, sequence, sequence.block_stop);
    SequenceOutcome outcome{0, 0, 0, num_masked, 0, -1, 0, sequence.block_stop};
    outcome.block_done = is_done(sequence, outcome, /*is_still=*/false);
    result.outcomes.push_back(outcome);
    any_done = any_done || outcome.block_done != 0;
    const std::int32_t stop = std::max(sequence.block_stop, sequence.border_stop);
    const std::size_t commits = static_cast<std::size_t>(stop - sequence.commit_start);
    most_commits += commits;
    most_alternatives += commits * static_cast<std::size_t>(sequence.sampling.num_alternatives);
  }
  result.commits.reserve(most_commits);
  result.alternatives.reserve(most_alternatives);
  const Clock::time_point began = Clock::now();
  Clock::time_point step_began = began;
  for (std::int32_t index = 0; index < plan.max_steps && !any_done; ++index) {
    const Clock::time_point now = Clock::now();
    const std::chrono::duration<double> would_take = (now - began) + (now - step_began);
    if (index > 0 && plan.max_seconds > 0 && would_take.count() > plan.max_seconds) break;
    step_began = now;
    step(stream, plan, index, result);
    for (const SequenceOutcome& outcome : result.outcomes) any_done = any_done || outcome.block_done != 0;
  }
  return result;
}

void DenoisingLoop::step(Stream stream, const StepPlan& plan, std::int32_t index, StepResult& result) {
  batch_.clear();
  rules_.clear();
  rows_.swap(last_rows_);
  rows_.clear();
  groups_.swap(last_groups_);
  groups_.clear();
  edits_.swap(last_edits_);
  edits_.clear();
  edit_rows_.clear();
  for (std::int64_t s = 0; s < plan.num_sequences; ++s) {
    const SequencePlan& sequence = plan.sequences[s];
    const std::int64_t begin = static_cast<std::int64_t>(rows_.size());
    const std::int64_t edits_begin = static_cast<std::int64_t>(edit_rows_.size());
    rules_.push_back(sampling_rule(sequence, index));
    const std::int64_t num_rows = add_sequence(plan, s, index == 0);
    result.outcomes[static_cast<std::size_t>(s)].num_query_rows += num_rows;
    const std::int32_t visible = plan.spans[(index == 0 ? sequence.first_end : sequence.next_end) - 1].visible;
    result.outcomes[static_cast<std::size_t>(s)].num_refreshes += num_rows == visible;
    const SelectRule& select = sequence.select;
    groups_.push_back(
        {begin, static_cast<std::int64_t>(rows_.size()), is_proposed(sequence) ? Select::kTopK : select.kind,
         least_commits(select, select.next_step + index), value_of(sequence, pool_.at(sequence.slot).canvas, visible),
         sequence.sampling.mask_id, select.near_value, select.radius});
    edits_.push_back({edits_begin, static_cast<std::int64_t>(edit_rows_.size())});
  }
  for (RowRange& edits : edits_) {
    edits.begin += static_cast<std::int64_t>(rows_.size());
    edits.end += static_cast<std::int64_t>(rows_.size());
  }
  rows_.insert(rows_.end(), edit_rows_.begin(), edit_rows_.end());
  find_candidates(stream, plan);
  find_borders(stream, plan, result);
  chosen_.assign(rows_.size(), -1);
  ops_.commit(stream, candidates_.data(), static_cast<std::int64_t>(rows_.size()), groups_.data(),
              static_cast<std::int64_t>(groups_.size()), chosen_.data());
  ops_.finish(stream);

  for (std::int64_t s = 0; s < plan.num_sequences; ++s) write_candidates(plan, s, index, result);
}

// Where a plan looks for a border: the block ends there, and what lies behind is no candidate.
void DenoisingLoop::find_borders(Stream stream, const StepPlan& plan, StepResult& result) {
  if (std::none_of(plan.sequences, plan.sequences + plan.num_sequences, has_border)) return;
  ops_.finish(stream);
  for (std::int64_t s = 0; s < plan.num_sequences; ++s) {
    const SequencePlan& sequence = plan.sequences[s];
    CommitGroup& group = groups_[static_cast<std::size_t>(s)];
    if (!has_border(sequence) || bad_position({group.begin, group.end}) >= 0) continue;
    double probability = 0;
    std::int64_t& stop = result.outcomes[static_cast<std::size_t>(s)].block_stop;
    for (std::int64_t i = group.begin; i < group.end; ++i) {
      const Candidate& candidate = candidates_[static_cast<std::size_t>(i)];
      const std::int32_t position = rows_[static_cast<std::size_t>(i)].position;
      const bool is_border = sequence.block_start <= position && position < sequence.border_stop &&
                             candidate.token == sequence.border_token &&
                             candidate.probability >= sequence.border_probability;
      if (!is_border || !(candidate.probability > probability)) continue;
      probability = candidate.probability;
      stop = position + 1;
    }
    while (group.begin < group.end && rows_[static_cast<std::size_t>(group.end - 1)].position >= stop) --group.end;
  }
}

// What a step does to one sequence: what was chosen of its masks, its edits, and what is left.
void DenoisingLoop::write_candidates(const StepPlan& plan, std::int64_t s, std::int32_t index, StepResult& result) {
  const SequencePlan& sequence = plan.sequences[s];
  const CommitGroup& group = groups_[static_cast<std::size_t>(s)];
  const RowRange& edits = edits_[static_cast<std::size_t>(s)];
  SequenceOutcome& outcome = result.outcomes[static_cast<std::size_t>(s)];
  outcome.bad_position = bad_position({group.begin, group.end});
  if (outcome.bad_position < 0) outcome.bad_position = bad_position(edits);
  const bool is_post_step = has_edits(sequence) && outcome.num_masked == 0;
  const bool is_finite = outcome.bad_position < 0;
  for (std::int64_t i = group.begin; i < group.end && is_finite && is_scored(sequence); ++i)
    result.log_probs.push_back(candidates_[static_cast<std::size_t>(i)].target_log_prob);
  CommitRecord record{static_cast<std::int32_t>(s), index, 0, 0, -1, 0, 0};
  for (std::int64_t i = group.begin; i < group.end && is_finite && is_proposed(sequence); ++i)
    tell(sequence, static_cast<std::size_t>(i), record, result);
  for (std::int64_t i = group.begin; i < group.end && is_finite && chosen_[static_cast<std::size_t>(i)] >= 0; ++i) {
    const std::size_t row = static_cast<std::size_t>(chosen_[static_cast<std::size_t>(i)]);
    if (candidates_[row].token != sequence.sampling.mask_id) write(sequence, row, record, result);
  }
  bool is_still = is_post_step;
  for (std::int64_t i = edits.begin; i < edits.end && is_finite; ++i) {
    const std::size_t row = static_cast<std::size_t>(i);
    const Candidate& candidate = candidates_[row];
    record.replaced = pool_.at(sequence.slot).canvas[static_cast<std::size_t>(rows_[row].position)];
    if (candidate.token == record.replaced || candidate.token == sequence.sampling.mask_id) continue;
    if (!(candidate.confidence >= sequence.select.edit_threshold)) continue;
    write(sequence, row, record, result);
    is_still = false;
  }
  outcome.num_steps = index + 1;
  outcome.num_post_steps += is_post_step;
  outcome.num_masked = count_masks(pool_.at(sequence.slot).canvas, sequence, outcome.block_stop);
  outcome.block_done = !is_finite || is_done(sequence, outcome, is_still);
}

// Writes the candidate of a row into the canvas, the guide's too; `record` says of which sequence and step it is.
void DenoisingLoop::write(const SequencePlan& sequence, std::size_t row, const CommitRecord& record,
                          StepResult& result) {
  const std::size_t position = static_cast<std::size_t>(rows_[row].position);
  for (const std::int32_t slot : {sequence.slot, sequence.guide_slot})
    if (slot >= 0) pool_.at(slot).canvas[position] = candidates_[row].token;
  tell(sequence, row, record, result);
}

// Puts the candidate of a row, and its alternatives, into the result.
void DenoisingLoop::tell(const SequencePlan& sequence, std::size_t row, CommitRecord record, StepResult& result) const {
  const Candidate& candidate = candidates_[row];
  record.position = rows_[row].position;
  record.token = candidate.token;
  record.confidence = candidate.confidence;
  record.log_prob = candidate.log_prob;
  result.commits.push_back(record);
  const auto of_row = alternatives_.begin() + static_cast<std::ptrdiff_t>(row) * most_alternatives_;
  result.alternatives.insert(result.alternatives.end(), of_row, of_row + sequence.sampling.num_alternatives);
}

// Fills positions_ with what a step recomputes of `span`.
void DenoisingLoop::choose_positions(const SequencePlan& plan, std::int64_t s, const QuerySpan& span, bool first) {
  positions_.clear();
  if (first || plan.compact == 0) {
    for (std::int32_t position = span.start; position < span.stop; ++position) positions_.push_back(position);
    return;
  }
  const CommitGroup& before = last_groups_[static_cast<std::size_t>(s)];
  const RowRange& edits = last_edits_[static_cast<std::size_t>(s)];
  for (const RowRange& rows : {RowRange{before.begin, before.end}, edits})
    for (std::int64_t i = rows.begin; i < rows.end; ++i) {
      const std::int32_t position = last_rows_[static_cast<std::size_t>(i)].position;
      if (span.start <= position && position < span.stop) positions_.push_back(position);
    }
  if (edits.begin < edits.end) std::sort(positions_.begin(), positions_.end());
}

// Rows of one sequence, and of its guide, with the masked ones among them as candidates, and those that may be edited.
// Returns how many rows it has.
std::int64_t DenoisingLoop::add_sequence(const StepPlan& plan, std::int64_t s, bool first) {
  const SequencePlan& sequence = plan.sequences[s];
  const Slot& slot = pool_.at(sequence.slot);
  const std::int32_t begin = first ? sequence.first_begin : sequence.next_begin;
  const std::int32_t end = first ? sequence.first_end : sequence.next_end;
  std::size_t candidate_of_guide = rows_.size(), edit_of_guide = edit_rows_.size();
  const std::int32_t stop = std::max(sequence.block_stop, sequence.border_stop);
  std::int32_t set = sequence.allowed_begin;
  std::int64_t num_rows = 0;
  for (std::int32_t i = begin; i < end; ++i) {
    choose_positions(sequence, s, plan.spans[i], first);
    num_rows += static_cast<std::int64_t>(positions_.size());
    batch_.begin(slot.view(), plan.spans[i].visible);
    for (const std::int32_t position : positions_) {
      const std::int64_t row = batch_.add(position);
      const std::int32_t target = is_scored(sequence) ? plan.targets[sequence.targets_begin + position] : -1;
      const std::int32_t token = slot.canvas[static_cast<std::size_t>(position)];
      const bool is_candidate = is_scored(sequence) ? target >= 0
                                                    : sequence.commit_start <= position && position < stop &&
                                                          token == sequence.sampling.mask_id;
      if (!is_candidate && !is_editable(plan, sequence, position, token)) continue;
      CandidateRow candidate;
      candidate.target = target;
      candidate.hidden_row = static_cast<std::int32_t>(batch_.wanted.size());
      candidate.position = position;
      candidate.rule = static_cast<std::int32_t>(s);
      while (set < sequence.allowed_end && plan.allowed_positions[set] < position) ++set;
      if (set < sequence.allowed_end && plan.allowed_positions[set] == position) candidate.allowed = set;
      (is_candidate ? rows_ : edit_rows_).push_back(candidate);
      batch_.wanted.push_back(row);
    }
  }
  for (std::int32_t i = begin; i < end && sequence.guide_slot >= 0; ++i) {
    choose_positions(sequence, s, plan.spans[i], first);
    add_guide(pool_.at(sequence.guide_slot), plan.spans[i].visible, candidate_of_guide, edit_of_guide);
  }
  return num_rows;
}

// Adds positions_ of the guide, whose hidden states go to the candidates there, from `candidate` and `edit` on.
void DenoisingLoop::add_guide(const Slot& guide, std::int64_t visible, std::size_t& candidate, std::size_t& edit) {
  batch_.begin(guide.view(), visible);
  for (const std::int32_t position : positions_) {
    const std::int64_t row = batch_.add(position);
    CandidateRow* found = take(rows_, candidate, position);
    if (found == nullptr) found = take(edit_rows_, edit, position);
    if (found == nullptr) continue;
    found->guide_row = static_cast<std::int32_t>(batch_.wanted.size());
    batch_.wanted.push_back(row);
  }
}

// Fills candidates_ and alternatives_ from the batch.
void DenoisingLoop::find_candidates(Stream stream, const StepPlan& plan) {
  const ConstTensor hidden = model_.forward(stream, batch_);
  // Rows of no group fill the bucket, so that steps have few shapes.
  while (static_cast<std::int64_t>(rows_.size()) % ops_.row_bucket != 0) rows_.push_back({});
  candidates_.assign(rows_.size(), Candidate{});
  most_alternatives_ = 0;
  for (const SamplingRule& rule : rules_) most_alternatives_ = std::max(most_alternatives_, rule.num_alternatives);
  alternatives_.assign(rows_.size() * static_cast<std::size_t>(most_alternatives_), Alternative{});
  ops_.candidates(stream, hidden, weights_.head, rules_.data(), static_cast<std::int64_t>(rules_.size()), rows_.data(),
                  static_cast<std::int64_t>(rows_.size()), plan.allowed, plan.num_sets, candidates_.data(),
                  most_alternatives_, alternatives_.data());
}

// The first position of the rows without finite logits, or -1.
std::int32_t DenoisingLoop::bad_position(const RowRange& rows) const {
  for (std::int64_t i = rows.begin; i < rows.end; ++i)
    if (candidates_[static_cast<std::size_t>(i)].token < 0) return rows_[static_cast<std::size_t>(i)].position;
  return -1;
}

}  // namespace llada
