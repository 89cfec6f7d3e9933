#include "model/tensor_names.h"

namespace llada {

std::vector<TensorRecord> tensor_records(const ModelConfig& config) {
  const std::string root = "model.transformer.";
  const std::int64_t d = config.d_model;
  const std::int64_t kv = config.num_kv_heads * config.head_dim;
  const std::int64_t mlp = config.mlp_hidden_size;
  std::vector<TensorRecord> records;
  records.push_back({WeightKind::kEmbedding, -1, root + "wte.weight", config.vocab_size, d});
  for (std::int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string block = root + "blocks." + std::to_string(layer) + ".";
    records.push_back({WeightKind::kAttnNorm, layer, block + "attn_norm.weight", 1, d});
    records.push_back({WeightKind::kQuery, layer, block + "q_proj.weight", d, d});
    records.push_back({WeightKind::kKey, layer, block + "k_proj.weight", kv, d});
    records.push_back({WeightKind::kValue, layer, block + "v_proj.weight", kv, d});
    records.push_back({WeightKind::kAttnOut, layer, block + "attn_out.weight", d, d});
    records.push_back({WeightKind::kMlpNorm, layer, block + "ff_norm.weight", 1, d});
    // The same leaf name ff_out is the down projection in a block and the head outside: match whole names only.
    records.push_back({WeightKind::kGate, layer, block + "ff_proj.weight", mlp, d});
    records.push_back({WeightKind::kUp, layer, block + "up_proj.weight", mlp, d});
    records.push_back({WeightKind::kDown, layer, block + "ff_out.weight", d, mlp});
  }
  records.push_back({WeightKind::kNorm, -1, root + "ln_f.weight", 1, d});
  if (!config.weight_tying) records.push_back({WeightKind::kHead, -1, root + "ff_out.weight", config.vocab_size, d});
  return records;
}

}  // namespace llada
