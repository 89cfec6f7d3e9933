// One record for each tensor of a model: our name, the names in checkpoints, the shape, and what becomes of the tensor.
// The loader, the check for extra tensors, and all counts of parameters and bytes are made from this one list.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

namespace llada {

// Our names. Parts of one weight stand in the order in which they are packed.
enum class WeightName {
  kEmbedding,
  kAttnNorm,
  kQuery,
  kKey,
  kValue,
  kAttnOut,
  kMlpNorm,
  kGate,
  kUp,
  kDown,
  kNorm,
  kHead
};

// How it is kept: a norm's vector, a table whose rows are looked up, a matrix of products. Only matrices are quantised.
enum class WeightKind { kVector, kTable, kMatrix };

// Matrices of one layer and expert with the same packing, unless it is kAlone, become one weight.
enum class Packing { kAlone, kKeyValue, kGateUp };

// What several devices would share: outputs (kRows), inputs (kCols), or nothing.
enum class ShardAxis { kNone, kRows, kCols };

struct TensorRecord {
  WeightName name;
  std::int64_t layer;   // -1 outside the layers
  std::int64_t expert;  // -1: it belongs to none
  WeightKind kind;
  Packing packing;
  ShardAxis shard_axis;
  std::int64_t rows;  // outputs; 1 of a vector
  std::int64_t cols;  // inputs
  // A checkpoint has one of these; this project writes the first. A tied head has the names of the embedding, since
  // the head is the embedding once more, as a matrix.
  std::vector<std::string> stored_names;
  bool is_tied;
};

// A family's list in the making: the family says what the tensors are called, the rest follows from the configuration.
class RecordList {
 public:
  explicit RecordList(const ModelConfig& config) : config_(config) {}

  // A head that is tied gets the names of the embedding, which comes before it.
  void add(WeightName name, std::vector<std::string> stored_names, std::int64_t layer = -1, std::int64_t expert = -1);
  std::vector<TensorRecord> take() { return std::move(records_); }

 private:
  const ModelConfig& config_;
  std::vector<TensorRecord> records_;
};

// What is packed together: one record, or several of one packing.
struct WeightGroup {
  std::vector<TensorRecord> parts;

  const TensorRecord& first() const { return parts.front(); }
  bool is_paired() const { return first().packing == Packing::kGateUp; }
  std::int64_t num_out() const;
  std::int64_t num_in() const { return first().cols; }
};

std::vector<TensorRecord> tensor_records(const ModelConfig& config);

// In the order of their first records.
std::vector<WeightGroup> weight_groups(const ModelConfig& config);

// Parameters in the files: a tied head has none.
std::int64_t num_parameters(const ModelConfig& config);

}  // namespace llada
