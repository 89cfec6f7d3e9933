#include "denoise/memory_needs.h"

#include "core/check.h"
#include "core/env.h"
#include "model/kv_pool.h"
#include "model/transformer.h"
#include "model/weights.h"
#include "ops/candidates.h"
#include "ops/registry.h"

namespace llada {
namespace {

// Logits that a thread holds for each row that wants them: one tile of 64, float32.
constexpr std::int64_t kHeadTileBytes = 64 * 4;
// Bytes that a row takes in the lists of the loop and in its results; the most probable tokens stand in both.
constexpr std::int64_t kListBytes = 512 + 2 * kMostAlternatives * static_cast<std::int64_t>(sizeof(Alternative));

// States and logits of the rows that want candidates.
std::int64_t head_bytes(const ModelConfig& config, int num_threads, std::int64_t num_candidates) {
  return candidate_bytes(num_candidates, config.vocab_size) + num_candidates * num_threads * kHeadTileBytes;
}

}  // namespace

int checked_num_threads(int requested) {
  check(requested >= 0 && requested <= kMaxThreads, ErrorKind::kConfig, "threads: expected 1 to ", kMaxThreads,
        ", got ", requested);
  return requested > 0 ? requested : default_num_threads();
}

std::int64_t workspace_bytes(const ModelConfig& config, const ComputeType& type, const Ops& ops, int num_threads,
                             std::int64_t num_rows) {
  return forward_bytes(config, type, ops, num_rows) + head_bytes(config, num_threads, num_rows) +
         alternative_bytes(num_rows, kMostAlternatives, num_threads) + num_rows * kListBytes +
         angle_bytes(config, config.max_sequence_length);
}

MemoryNeeds memory_needs(const std::string& folder, const ComputeOptions& options, std::int64_t num_rows) {
  const ModelConfig config = load_config(folder);
  const Ops& ops = find_table(options.table);
  const ComputeType& type = compute_type_of(folder, config, options.compute_type, ops);
  return {&type, num_weight_bytes(config, type, ops),
          workspace_bytes(config, type, ops, checked_num_threads(options.num_threads), num_rows),
          kv_slot_bytes(config, type.rows, 1)};
}

Footprint footprint(const std::string& folder, const ComputeOptions& options, const Load& load) {
  const ModelConfig config = load_config(folder);
  check(1 <= load.length && load.length <= config.max_sequence_length, ErrorKind::kContextLength,
        "expected canvases of 1 to ", config.max_sequence_length, " positions (max_sequence_length), got ",
        load.length);
  check(0 <= load.num_candidates && load.num_candidates <= load.num_rows, ErrorKind::kInvalidRequest, "expected 0 to ",
        load.num_rows, " candidates, as many as there are rows, got ", load.num_candidates);
  const Ops& ops = find_table(options.table);
  // Any type will do for that of the embedding where "auto" does not ask for it.
  const ComputeType& type = options.compute_type == "auto"
                                ? compute_type_of(folder, config, options.compute_type, ops)
                                : find_compute_type(options.compute_type, config.quantization, DType::kFloat32, ops);
  const int num_threads = checked_num_threads(options.num_threads);
  return {&type,
          num_weight_bytes(config, type, ops),
          num_angle_positions(config, load.length),
          num_angle_columns(config),
          angle_bytes(config, load.length),
          kv_positions(load.length),
          kv_bytes_per_token(config, type.rows),
          kv_slot_bytes(config, type.rows, load.length),
          forward_bytes(config, type, ops, load.num_rows) + head_bytes(config, num_threads, load.num_candidates)};
}

}  // namespace llada
