// One record for each tensor of the published checkpoint: its name there and its shape. The loader, the extra-tensor
// check and the size report are made from this list.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

namespace llada {

enum class WeightKind {
  kEmbedding,
  kNorm,
  kAttnNorm,
  kQuery,
  kKey,
  kValue,
  kAttnOut,
  kMlpNorm,
  kGate,
  kUp,
  kDown,
  kHead
};

struct TensorRecord {
  WeightKind kind;
  std::int64_t layer;  // -1 outside the blocks
  std::string name;
  std::int64_t rows;  // outputs; 1 for a norm weight
  std::int64_t cols;  // inputs

  // A norm weight is stored with one dimension.
  bool is_norm() const {
    return kind == WeightKind::kNorm || kind == WeightKind::kAttnNorm || kind == WeightKind::kMlpNorm;
  }
  // A product has it as its weight; these are what may be quantised.
  bool is_matrix() const { return !is_norm() && kind != WeightKind::kEmbedding; }
};

// In the order of the forward pass. With tied weights there is no head.
std::vector<TensorRecord> tensor_records(const ModelConfig& config);

}  // namespace llada
