// The denoising loop: choose the rows, run the transformer on them, turn the logits of masked rows into candidates,
// commit the best, count what is left. It exists once; cache policies and decoders are only values in the plan.
#pragma once

#include <vector>

#include "denoise/plan.h"
#include "model/kv_pool.h"
#include "model/transformer.h"

namespace llada {

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
  void add_guide(const Slot& guide, std::int64_t visible, std::size_t& candidate);
  void choose_positions(const SequencePlan& plan, std::int64_t s, const QuerySpan& span, bool first);
  void find_candidates(Stream stream, const StepPlan& plan);
  void tell(const StepPlan& plan, std::int64_t s, std::int32_t index, std::size_t row, StepResult& result) const;
  std::int32_t bad_position(const CommitGroup& group) const;

  Transformer& model_;
  KvPool& pool_;
  const Weights& weights_;
  const Ops& ops_;

  // One step's batch, kept between steps for its memory.
  ForwardBatch batch_;
  std::vector<CandidateRow> rows_;
  std::vector<SamplingRule> rules_;
  std::vector<CommitGroup> groups_;
  std::vector<Candidate> candidates_;
  std::int32_t most_alternatives_ = 0;     // that a sequence asks for
  std::vector<Alternative> alternatives_;  // (rows, most_alternatives_)
  std::vector<std::int64_t> chosen_;
  std::vector<std::int32_t> positions_;  // of one span: those that the step recomputes
  // Candidates of the step before: what a compact plan recomputes.
  std::vector<CandidateRow> last_rows_;
  std::vector<CommitGroup> last_groups_;
};

}  // namespace llada
