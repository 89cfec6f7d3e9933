// One loaded model and all that it needs to run: what the bindings hold. Calls are serialised.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "denoise/loop.h"
#include "model/config.h"
#include "model/kv_pool.h"
#include "model/llada.h"
#include "model/weights.h"

namespace llada {

struct RuntimeOptions {
  std::string compute_type = "auto";
  std::string table;    // empty: the best of this machine
  int num_threads = 0;  // 0: default_num_threads()
};

class Runtime {
 public:
  Runtime(const std::string& folder, const RuntimeOptions& options);

  const ModelConfig& config() const { return config_; }
  const Weights& weights() const { return weights_; }
  const Ops& ops() const { return ops_; }
  int num_threads() const { return pool_.num_threads(); }
  std::int64_t kv_bytes_per_token() const { return kv_.bytes_per_token(); }

  std::int32_t open_slot(std::vector<std::int32_t> canvas);
  void write_slot(std::int32_t slot, std::vector<std::int32_t> canvas);
  void close_slot(std::int32_t slot);
  std::int64_t num_open_slots();
  std::vector<std::int32_t> canvas(std::int32_t slot);

  StepResult denoise(const StepPlan& plan);
  std::vector<std::vector<double>> log_probs(const std::vector<DenoisingLoop::Scored>& sequences,
                                             double guidance_scale);

  // Logits of each position: out (tokens.size(), vocab_size) float32.
  void forward(const std::vector<std::int32_t>& tokens, float* out);

  // For what decides in Python: recomputes `spans` of a slot, as a step would, and gives the logits at `positions`,
  // which ascend and lie within the spans: out (positions.size(), vocab_size) float32. The canvas stays as it is.
  void logits(std::int32_t slot, const std::vector<QuerySpan>& spans, const std::vector<std::int32_t>& positions,
              float* out);

 private:
  void logits(const Slot& slot, const std::vector<QuerySpan>& spans, const std::vector<std::int32_t>& positions,
              float* out);

  std::mutex mutex_;
  const ModelConfig config_;
  const Ops& ops_;
  ThreadPool pool_;
  const Stream stream_;
  const Weights weights_;
  KvPool kv_;
  Llada model_;
  DenoisingLoop loop_;
};

}  // namespace llada
