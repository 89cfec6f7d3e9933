// One loaded model and all that it needs to run: what the bindings hold. Calls are serialised.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "denoise/loop.h"
#include "denoise/memory_needs.h"
#include "model/config.h"
#include "model/kv_pool.h"
#include "model/transformer.h"
#include "model/weights.h"
#include "ops/memory.h"
#include "ops/trace.h"

namespace llada {

struct RuntimeOptions : ComputeOptions {
  int device_index = 0;    // where the table has a device
  void* stream = nullptr;  // of that device, and the caller's; nullptr: one of our own
};

class Runtime {
 public:
  Runtime(const std::string& folder, const RuntimeOptions& options);

  const ModelConfig& config() const { return config_; }
  const Weights& weights() const { return weights_; }
  const Ops& ops() const { return table_; }
  int num_threads() const { return pool_.num_threads(); }
  std::int64_t kv_bytes_per_token() const { return kv_.bytes_per_token(); }
  std::int64_t kv_slot_bytes(std::int64_t length) const { return kv_.slot_bytes(length); }
  std::int64_t workspace_bytes(std::int64_t num_rows) const;

  // Bytes that all slots together may take. Only while no slot is open.
  void reserve_kv(std::int64_t num_bytes);
  std::int64_t kv_used_bytes();
  // Memory of the device that nobody has taken; -1 on the processor.
  std::int64_t free_device_bytes();
  // What the session on the device has done; zeros on the processor.
  DeviceCounts device_counts();

  std::int32_t open_slot(std::vector<std::int32_t> canvas, std::int32_t last_position = -1);
  // A slot with the same canvas, whose K and V are yet to be computed.
  std::int32_t copy_slot(std::int32_t slot);
  void write_slot(std::int32_t slot, std::vector<std::int32_t> canvas, std::int32_t last_position = -1);
  void close_slot(std::int32_t slot);
  std::int64_t num_open_slots();
  std::vector<std::int32_t> canvas(std::int32_t slot);

  StepResult denoise(const StepPlan& plan);

  // Logits of each position: out (tokens.size(), vocab_size) float32.
  void forward(const std::vector<std::int32_t>& tokens, float* out);

  // A matrix where the table computes; whoever has it gives it back to `drop`.
  struct Output {
    Block block;
    DType dtype;
    std::int64_t rows;
    std::int64_t cols;
    int device_index;  // -1: the processor
  };
  // Logits of each position, (tokens.size(), vocab_size) float32; or what the head reads, (tokens.size(), d_model): the
  // last hidden states, normed, in T. Throws ConfigError for these where the compute type quantises them.
  Output forward_in_place(const std::vector<std::int32_t>& tokens, bool hidden);
  // Frees at once on the processor; on a device after the running call.
  void drop(Output output);

  // For what decides in Python: recomputes `spans` of a slot, as a step would, and gives the logits at `positions`,
  // which ascend and lie within the spans: out (positions.size(), vocab_size) float32. The canvas stays as it is.
  void logits(std::int32_t slot, const std::vector<QuerySpan>& spans, const std::vector<std::int32_t>& positions,
              float* out);

  // The same in pieces, for more positions than may have their logits at once: what the head reads of them, which stays
  // as it is in later steps and goes back to `drop`; and the logits of rows [begin, end) of it: out (end - begin,
  // vocab_size) float32.
  Output hidden(std::int32_t slot, const std::vector<QuerySpan>& spans, const std::vector<std::int32_t>& positions);
  void head_of(const Output& hidden, std::int64_t begin, std::int64_t end, float* out);

  // From now on the time of each op is added up, beginning with nothing, or no longer.
  void set_trace(bool on);
  // What has been added up; "denoise" is the whole of those calls.
  std::vector<Trace::Entry> trace();

 private:
  void logits(const Slot& slot, const std::vector<QuerySpan>& spans, const std::vector<std::int32_t>& positions,
              float* out);
  ConstTensor hidden_states(const Slot& slot, const std::vector<QuerySpan>& spans,
                            const std::vector<std::int32_t>& positions);
  Output kept(const ConstTensor& hidden);
  void head(const ConstTensor& hidden, float* out);
  void head_to_host(const ConstTensor& hidden, float* out);

  std::mutex mutex_;
  const int device_index_;
  const ModelConfig config_;
  const Ops& table_;
  Ops ops_;  // the table, or the same timed
  Trace trace_;
  ThreadPool pool_;
  const Memory memory_;
  Stream stream_;
  const Weights weights_;
  KvPool kv_;
  Transformer model_;
  DenoisingLoop loop_;
};

}  // namespace llada
