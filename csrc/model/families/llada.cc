// LLaDA: the keys of its config.json (those of OLMo, which its published code comes from) and the names of its tensors.
#include <cmath>

#include "core/check.h"
#include "model/config.h"
#include "model/config_fields.h"
#include "model/tensor_records.h"

namespace llada {
namespace {

std::int64_t num_kv_heads(const ConfigFields& fields, std::int64_t num_heads) {
  const bool has_count = fields.optional("n_kv_heads") != nullptr;
  const bool one = fields.optional("multi_query_attention") != nullptr && fields.flag("multi_query_attention");
  const std::int64_t heads = has_count ? fields.size("n_kv_heads") : one ? 1 : num_heads;
  check(!one || heads == 1, ErrorKind::kModelFormat, fields.where("multi_query_attention"),
        ": true expected n_kv_heads 1, got ", heads);
  check(num_heads % heads == 0, ErrorKind::kModelFormat, fields.where("n_kv_heads"), ": expected a divisor of n_heads ",
        num_heads, ", got ", heads);
  return heads;
}

std::int64_t mlp_hidden_size(const ConfigFields& fields, std::int64_t d_model) {
  if (fields.optional("mlp_hidden_size") != nullptr) return fields.size("mlp_hidden_size");
  const double size = fields.positive("mlp_ratio") * static_cast<double>(d_model);
  check(size >= 1 && size <= static_cast<double>(ConfigFields::kMaxSize) && size == std::floor(size),
        ErrorKind::kModelFormat, fields.where("mlp_ratio"), ": expected a whole mlp_ratio * d_model, got ", size);
  return static_cast<std::int64_t>(size);
}

ModelConfig read_config(const ConfigFields& fields) {
  fields.only("block_type", "llama");
  fields.only("activation_type", "silu");
  fields.only("layer_norm_type", "rms");
  fields.required("rope");
  fields.only_flag("rope", true);
  // weight_tying says whether the head is tied: the published code does not look at tie_word_embeddings. mlp_ratio
  // counts without mlp_hidden_size only. The rest is of training, or of what another key switches off.
  fields.ignore({"tie_word_embeddings", "mlp_ratio", "alibi_bias_max", "attention_layer_norm_with_affine",
                 "init_cutoff_factor", "init_device", "init_fn", "init_std", "precision", "fuse_cross_entropy"});

  ModelConfig config;
  config.d_model = fields.size("d_model");
  const std::int64_t num_layers = fields.size("n_layers", ConfigFields::kMaxLayers);
  config.num_heads = fields.size("n_heads");
  config.num_kv_heads = num_kv_heads(fields, config.num_heads);
  check(config.d_model % config.num_heads == 0, ErrorKind::kModelFormat, fields.where("n_heads"),
        ": expected a divisor of d_model ", config.d_model, ", got ", config.num_heads);
  LayerConfig layer;
  layer.head_dim = layer.rotary_dim = config.d_model / config.num_heads;
  layer.mlp_hidden_size = mlp_hidden_size(fields, config.d_model);
  config.layers.assign(static_cast<std::size_t>(num_layers), layer);
  const std::int64_t vocab_size = fields.size("vocab_size");
  config.vocab_size = fields.optional("embedding_size") != nullptr ? fields.size("embedding_size") : vocab_size;
  check(config.vocab_size >= vocab_size, ErrorKind::kModelFormat, fields.where("embedding_size"),
        ": expected at least vocab_size ", vocab_size, ", got ", config.vocab_size);
  config.max_sequence_length = fields.size("max_sequence_length");
  config.rope_theta = fields.rope_theta();
  config.rms_norm_eps = fields.positive("rms_norm_eps");
  config.tied_head = fields.flag("weight_tying");
  return config;
}

std::vector<TensorRecord> list_tensors(const ModelConfig& config) {
  const std::string root = "model.transformer.";
  RecordList list(config);
  list.add(WeightName::kEmbedding, {root + "wte.weight"});
  for (std::int64_t layer = 0; layer < config.num_layers(); ++layer) {
    const std::string block = root + "blocks." + std::to_string(layer) + ".";
    list.add(WeightName::kAttnNorm, {block + "attn_norm.weight"}, layer);
    list.add(WeightName::kQuery, {block + "q_proj.weight"}, layer);
    list.add(WeightName::kKey, {block + "k_proj.weight"}, layer);
    list.add(WeightName::kValue, {block + "v_proj.weight"}, layer);
    list.add(WeightName::kAttnOut, {block + "attn_out.weight"}, layer);
    list.add(WeightName::kMlpNorm, {block + "ff_norm.weight"}, layer);
    // The same leaf name ff_out is the down projection in a block and the head outside: match whole names only.
    list.add(WeightName::kGate, {block + "ff_proj.weight"}, layer);
    list.add(WeightName::kUp, {block + "up_proj.weight"}, layer);
    list.add(WeightName::kDown, {block + "ff_out.weight"}, layer);
  }
  list.add(WeightName::kNorm, {root + "ln_f.weight"});
  list.add(WeightName::kHead, {root + "ff_out.weight"});
  return list.take();
}

}  // namespace

extern const Family kLlada;
constinit const Family kLlada{"LLaDA", "llada", "LLaDAModelLM", read_config, list_tensors};

}  // namespace llada
