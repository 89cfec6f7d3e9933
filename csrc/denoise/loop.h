// The denoising loop: choose the rows, run the transformer on them, turn the logits of masked rows into candidates,
// commit the best, edit what a plan lets edit, count what is left. It exists once; cache policies and decoders are only
// values in the plan.
#pragma once

#include <vector>

#include "denoise/plan.h"
#include "model/kv_pool.h"
#include "model/transformer.h"

namespace llada {

// Candidates [begin, end) of a step.
struct RowRange {
  std::int64_t begin;
  std::int64_t end;
};

class DenoisingLoop {
 public:
  DenoisingLoop(Transformer& model, KvPool& pool, const Weights& weights, const Ops& ops)
      : model_(model), pool_(pool), weights_(weights), ops_(ops) {}

  // Runs steps until at least one sequence is done or max_steps have run. Throws InvalidRequestError for a plan that
  // does not fit its slots, InternalError naming sequence and position if logits are not finite.
  StepResult run(Stream stream, const StepPlan& plan);

 private:
  void step(Stream stream, const StepPlan& plan, std::int32_t index, StepResult& result);
  std::int64_t add_sequence(const StepPlan& plan, std::int64_t s, bool first);
  void add_guide(const Slot& guide, std::int64_t visible, std::size_t& candidate, std::size_t& edit);
  void choose_positions(const SequencePlan& plan, std::int64_t s, const QuerySpan& span, bool first);
  void find_candidates(Stream stream, const StepPlan& plan);
  void find_borders(Stream stream, const StepPlan& plan, StepResult& result);
  std::int32_t bad_position(const RowRange& rows) const;
  void write_candidates(const StepPlan& plan, std::int64_t s, std::int32_t index, StepResult& result);
  void write(const SequencePlan& sequence, std::size_t row, const CommitRecord& record, StepResult& result);
  void tell(const SequencePlan& sequence, std::size_t row, CommitRecord record, StepResult& result) const;

  Transformer& model_;
  KvPool& pool_;
  const Weights& weights_;
  const Ops& ops_;

  // One step's batch, kept between steps for its memory.
  ForwardBatch batch_;
  std::vector<CandidateRow> rows_;
  std::vector<SamplingRule> rules_;
  std::vector<CommitGroup> groups_;
  std::vector<CandidateRow> edit_rows_;  // of all sequences, tokens that may be edited: to be appended to rows_
  std::vector<RowRange> edits_;          // of each sequence, in rows_
  std::vector<Candidate> candidates_;
  std::int32_t most_alternatives_ = 0;     // that a sequence asks for
  std::vector<Alternative> alternatives_;  // (rows, most_alternatives_)
  std::vector<std::int64_t> chosen_;
  std::vector<std::int32_t> positions_;  // of one span: those that the step recomputes
  // Candidates of the step before: what a compact plan recomputes.
  std::vector<CandidateRow> last_rows_;
  std::vector<CommitGroup> last_groups_;
  std::vector<RowRange> last_edits_;
};

}  // namespace llada
