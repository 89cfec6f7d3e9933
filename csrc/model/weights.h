// The weights of a model as the ops read them: packed for the table, rounded or quantised for the compute type. Loading
// reads everything in pieces; the checkpoint files are closed afterwards.
#pragma once

#include <string>
#include <vector>

#include "model/config.h"
#include "model/quantization.h"
#include "ops/memory.h"

namespace llada {

struct LayerWeights {
  ConstTensor attn_norm;   // (1, d_model) float32, values of T; so is each norm
  PackedWeight query;      // (num_heads * head_dim, d_model)
  PackedWeight key_value;  // (2 * num_kv_heads * head_dim, d_model): K, then V
  // K, V and Q as one, where the table lets rows of a weight be taken alone: the two above are parts of it then.
  PackedWeight key_value_query;
  PackedWeight attn_out;  // (d_model, num_heads * head_dim)
  ConstTensor mlp_norm;
  PackedWeight gate_up;  // (2 * mlp_hidden_size, d_model), paired: gate, then up
  PackedWeight down;     // (d_model, mlp_hidden_size)
};

struct Weights {
  ComputeType type{};
  DType checkpoint_dtype = DType::kFloat32;  // of the embedding in the file
  ConstTensor embedding;                     // (vocab_size, d_model) in T
  std::vector<LayerWeights> layers;
  ConstTensor norm;
  PackedWeight head;  // (vocab_size, d_model)
  std::int64_t num_bytes = 0;
  std::vector<Block> memory;
};

// From row to row of a weight that has K, V and Q as one; 0 where the table lets no rows of a weight be taken alone.
std::int64_t joined_row_bytes(const ComputeType& type, std::int64_t num_in, const Ops& ops);

// Bytes of all weights in a table's memory.
std::int64_t num_weight_bytes(const ModelConfig& config, const ComputeType& type, const Ops& ops);

// The compute type that load_weights would choose, from the headers of the files, which are checked against `config`.
// Throws as that does.
const ComputeType& compute_type_of(const std::string& folder, const ModelConfig& config,
                                   const std::string& compute_type, const Ops& ops);

// compute_type: "auto" (that of a quantised folder, bfloat16 for a 16-bit checkpoint, else float32) or a name that
// find_compute_type knows. Throws ModelNotFoundError, ModelFormatError (missing, extra, wrong shape, not finite),
// UnsupportedModelError, ConfigError, or OutOfMemoryError before anything is read if a device has no room for them.
Weights load_weights(const std::string& folder, const ModelConfig& config, const std::string& compute_type,
                     const Ops& ops, const Memory& memory, Stream stream);

}  // namespace llada
