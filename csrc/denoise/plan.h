// What goes down to the computing half and what comes back: plain data, mirrored by llada_rt/planning/plan.py. The
// records cross the border as numpy structured arrays of exactly this layout.
#pragma once

#include <cstdint>
#include <vector>

#include "model/batch.h"
#include "ops/ops.h"

namespace llada {

// Which candidates a step commits. kPropose commits none: the one step tells every candidate, and the caller writes
// into the canvas what it makes of them. The fields are those of SelectRule in llada_rt/planning/plan.py, in this
// order. No byte between them is open.
struct SelectRule {
  Select kind;
  std::int32_t num_masked;  // what the schedule divides: as top_k counts, the masks in the block when it began
  std::int32_t num_steps;   // of the schedule; all but top_k: 0, or the block ends with it
  std::int32_t next_step;   // index in that schedule
  std::int64_t count;       // all but top_k: commit at least so many, what the schedule says and one
  double value;             // threshold: tau; factor: f; frechet: delta; local_leap: kappa; entropy_bound: gamma
  // Where a token may be edited: a candidate that differs from it and is at least so sure takes its place. Edits do not
  // count into the minimum, and none writes a mask.
  double edit_threshold;
  std::int64_t max_post_steps;  // steps of a block without masks; the first of them that edits nothing is the last
  double near_value;            // local_leap: tau
  std::int64_t radius;          // local_leap: W
  double alpha;                 // threshold: by this share tau falls while the canvas fills
};

// One sequence of a plan: a canvas in a slot, and the rules by which its active block fills. Offsets are rows of the
// span array: the first step of the call recomputes [first_begin, first_end), later ones [next_begin, next_end).
struct SequencePlan {
  std::int32_t slot;
  std::int32_t guide_slot;  // the same canvas with the prompt masked; -1: no guidance
  std::int32_t first_begin, first_end;
  std::int32_t next_begin, next_end;
  std::int32_t block_start, block_stop;
  std::int32_t commit_start;  // recomputed masks in [commit_start, block_stop) are candidates
  // Range of the spans: tokens at these positions, of [commit_start, block_stop), may be edited, so they are candidates
  // too. The `visible` of such a span is not read. Empty: what is committed stays.
  std::int32_t editable_begin, editable_end;
  std::int32_t post_steps;  // of the block, in earlier calls
  std::int32_t step;        // forwards this request has run; the rule's own step is not read
  // Only the candidates of the step before are recomputed of the next spans: what is still masked, what that step
  // committed, for its final K and V, and what may be edited.
  std::int32_t compact;
  // Range of the plan's targets, one for each position of the canvas: the sequence is scored. One step gives the
  // log-probability of each position with a target (not -1), nothing is committed. Empty: it is decoded.
  std::int32_t targets_begin, targets_end;
  // Range of the plan's sets of allowed tokens: the candidates at these positions come out of them.
  std::int32_t allowed_begin, allowed_end;
  // Where there is one, masks before it are candidates too, and the block ends after the surest of [block_start,
  // border_stop) that is border_token and at least border_probability, wherever the plan lets it end (AdaBlock). One
  // step; the next plan has the block as the outcome says. 0: the block ends as planned.
  std::int32_t border_stop;
  std::int32_t border_token;
  double border_probability;
  SelectRule select;
  SamplingRule sampling;
};

inline bool is_scored(const SequencePlan& plan) { return plan.targets_begin < plan.targets_end; }
inline bool has_border(const SequencePlan& plan) { return plan.border_stop > 0; }
inline bool is_proposed(const SequencePlan& plan) { return plan.select.kind == Select::kPropose; }
inline bool has_edits(const SequencePlan& plan) { return plan.editable_begin < plan.editable_end; }

struct StepPlan {
  const SequencePlan* sequences = nullptr;
  std::int64_t num_sequences = 0;
  const QuerySpan* spans = nullptr;
  std::int64_t num_spans = 0;
  const std::int32_t* targets = nullptr;  // of the scored sequences, one for each position of their canvas
  std::int64_t num_targets = 0;
  const std::int32_t* allowed_positions = nullptr;  // (num_sets), ascending within a sequence
  const std::uint32_t* allowed = nullptr;           // (num_sets, set_words(vocabulary)), see Ops::candidates
  std::int64_t num_sets = 0;
  std::int32_t max_steps = 1;
  // No step begins that would end later than this after the call began, were it as long as the one before; 0: no limit.
  double max_seconds = 0;
};

struct SequenceOutcome {
  std::int64_t num_query_rows;  // positions recomputed in this call, without the guide's
  std::int32_t num_refreshes;   // steps that recomputed all that their rows see: under full attention the whole canvas
  std::int32_t num_steps;       // forwards run in this call
  std::int32_t num_masked;      // masks left in the block
  std::int32_t block_done;      // nothing left to fill or edit, a schedule at its end, proposed, or no finite logits
  std::int32_t bad_position;    // -1, or the first position without finite logits: that step committed nothing
  std::int32_t num_post_steps;  // of num_steps, those that found no mask and could only edit
  std::int64_t block_stop;      // of the plan, or where a border was found
};

// A committed token, or a proposed one.
struct CommitRecord {
  std::int32_t sequence;  // index in the plan
  std::int32_t step;      // of this call, from 0
  std::int32_t position;
  std::int32_t token;
  std::int32_t replaced;  // the token that an edit has replaced; -1: the position was masked
  double confidence;
  double log_prob;  // of the token, without noise
};

struct StepResult {
  std::vector<SequenceOutcome> outcomes;
  // By step, then sequence, then confidence. Proposals, and edits, which come after the rest, are by position.
  std::vector<CommitRecord> commits;
  std::vector<double> log_probs;  // of the targets, by sequence, then position; none of one without finite logits
  std::vector<Alternative> alternatives;  // of the commits, one after the other, as many as their sequence asks for
};

}  // namespace llada
