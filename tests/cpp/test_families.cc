// A family of models that only this program knows, whose config.json says what each layer is: LLaDA's keys, and a list
// `layers` with the fields of LayerConfig, as training/model.py writes it. Run by tests/model/test_families.py:
//   test_families                           checks of the registry and of the records
//   test_families FOLDER COMPUTE TOKEN...   logits of each position by the runtime's transformer, one in a line
// An error ends it with status 1, and its message on the standard error.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/parallel.h"
#include "cpu/tables.h"
#include "model/config.h"
#include "model/config_fields.h"
#include "model/kv_pool.h"
#include "model/tensor_records.h"
#include "model/transformer.h"
#include "model/weights.h"
#include "ops/registry.h"

namespace llada {
namespace {

int failures = 0;

void expect(bool ok, const char* what) {
  if (!ok) {
    std::printf("failed: %s\n", what);
    ++failures;
  }
}

template <class Enumeration>
void read_choice(const ConfigFields& fields, const char* key, Enumeration last, Enumeration& out) {
  if (fields.optional(key) == nullptr) return;
  const std::string value(fields.required(key).as_string(fields.where(key)));
  for (int i = 0; i <= static_cast<int>(last); ++i) {
    out = static_cast<Enumeration>(i);
    if (name_of(out) == value) return;
  }
  fail(ErrorKind::kModelFormat, fields.where(key), ": expected a known value, got \"", value, "\"");
}

void read_count(const ConfigFields& fields, const char* key, std::int64_t& out) {
  if (fields.optional(key) != nullptr) out = fields.required(key).as_integer(fields.where(key));
}

LayerConfig read_layer(const ConfigFields& fields) {
  LayerConfig layer;
  read_count(fields, "head_dim", layer.head_dim);
  read_count(fields, "rotary_dim", layer.rotary_dim);
  if (fields.optional("qkv_bias") != nullptr) layer.qkv_bias = fields.flag("qkv_bias");
  read_choice(fields, "qk_norm", QkNorm::kWhole, layer.qk_norm);
  read_choice(fields, "qk_norm_place", QkNormPlace::kAfterRope, layer.qk_norm_place);
  read_choice(fields, "attention", AttentionKind::kBlockCausal, layer.attention);
  read_choice(fields, "mlp", MlpKind::kMoe, layer.mlp);
  read_count(fields, "mlp_hidden_size", layer.mlp_hidden_size);
  read_count(fields, "num_experts", layer.num_experts);
  read_count(fields, "top_k", layer.top_k);
  read_count(fields, "num_shared_experts", layer.num_shared_experts);
  read_choice(fields, "router", Router::kGroupedSigmoid, layer.router);
  return layer;
}

ModelConfig read_config(const ConfigFields& fields) {
  ModelConfig config;
  config.d_model = fields.size("d_model");
  config.num_heads = fields.size("n_heads");
  config.num_kv_heads = fields.size("n_kv_heads");
  config.vocab_size = fields.size("vocab_size");
  config.max_sequence_length = fields.size("max_sequence_length");
  config.rope_theta = fields.rope_theta();
  config.rms_norm_eps = fields.positive("rms_norm_eps");
  config.tied_head = fields.flag("weight_tying");
  if (fields.optional("logit_shift") != nullptr) config.logit_shift = fields.flag("logit_shift");
  read_count(fields, "block_length", config.block_length);
  for (const Json& layer : fields.required("layers").as_array("layers"))
    config.layers.push_back(read_layer(ConfigFields(layer, "layers")));
  return config;
}

// LLaDA's names, behind another that checkpoints may have instead. The order is not the one in which weights are
// packed.
std::vector<TensorRecord> list_tensors(const ModelConfig& config) {
  const std::string root = "model.transformer.";
  RecordList list(config);
  list.add(WeightName::kEmbedding, {"embed_tokens.weight", root + "wte.weight"});
  for (std::int64_t layer = 0; layer < config.num_layers(); ++layer) {
    const std::string block = root + "blocks." + std::to_string(layer) + ".";
    list.add(WeightName::kUp, {block + "up_proj.weight"}, layer);
    list.add(WeightName::kGate, {block + "ff_proj.weight"}, layer);
    list.add(WeightName::kDown, {block + "ff_out.weight"}, layer);
    list.add(WeightName::kValue, {block + "v_proj.weight"}, layer);
    list.add(WeightName::kKey, {block + "k_proj.weight"}, layer);
    list.add(WeightName::kQuery, {block + "q_proj.weight"}, layer);
    list.add(WeightName::kAttnOut, {block + "attn_out.weight"}, layer);
    list.add(WeightName::kAttnNorm, {block + "attn_norm.weight"}, layer);
    list.add(WeightName::kMlpNorm, {block + "ff_norm.weight"}, layer);
  }
  list.add(WeightName::kNorm, {root + "ln_f.weight"});
  list.add(WeightName::kHead, {"lm_head.weight", root + "ff_out.weight"});
  return list.take();
}

const Family kLayers{"Layers", "llada_layers", "LayersLM", read_config, list_tensors};
const Family kLayersToo{"another", "llada_layers", "OtherLM", read_config, list_tensors};

void architectures_tell_families_of_one_model_type_apart() {
  const Family* const families[] = {&kLayers, &kLayersToo};
  expect(&find_family("llada_layers", {}, families) == &kLayers, "the first without architectures");
  expect(&find_family("llada_layers", {"OtherLM"}, families) == &kLayersToo, "the one whose architecture is named");
  expect(&find_family("llada_layers", {"NobodyLM"}, families) == &kLayers, "the first with an unknown architecture");
  std::string message;
  try {
    find_family("llama", {"OtherLM"}, families);
  } catch (const Error& error) {
    message = error.what();
  }
  expect(message ==
             "config.json: model_type: expected one of \"llada_layers\" (Layers), \"llada_layers\" "
             "(another), got \"llama\"",
         "an unknown model_type is told what there is");
}

void records_say_what_becomes_of_tensors() {
  ModelConfig config;
  config.family = &kLayers;
  config.d_model = 32;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.vocab_size = 100;
  config.layers.assign(2, {.head_dim = 16, .rotary_dim = 16, .mlp_hidden_size = 48});
  config.layers[1].mlp_hidden_size = 40;
  for (const bool tied : {false, true}) {
    config.tied_head = tied;
    std::int64_t grouped = 0, owned = 0;
    for (const TensorRecord& record : tensor_records(config)) {
      const bool writes = record.name == WeightName::kDown || record.name == WeightName::kAttnOut;
      const bool is_vector = record.kind == WeightKind::kVector;
      expect(record.shard_axis == (is_vector ? ShardAxis::kNone
                                   : writes  ? ShardAxis::kCols
                                             : ShardAxis::kRows),
             "outputs are shared out, inputs of what writes to the residual stream, vectors are not");
      expect(record.is_tied == (tied && record.name == WeightName::kHead), "only a tied head is tied");
      expect(!record.is_tied || record.stored_names.back() == "model.transformer.wte.weight", "as the embedding");
      if (!record.is_tied) owned += record.rows * record.cols;
    }
    for (const WeightGroup& group : weight_groups(config)) {
      const WeightName first = group.first().name;
      grouped += group.num_out() * group.num_in();
      expect(first != WeightName::kUp && first != WeightName::kValue, "parts stand in the order of packing");
      expect(group.is_paired() == (first == WeightName::kGate), "gate and up are a pair");
      if (first == WeightName::kKey) expect(group.num_out() == 2 * 2 * 16, "K and V, of heads of 16");
      if (first == WeightName::kGate)
        expect(group.num_out() == (group.first().layer == 0 ? 96 : 80), "an MLP of the layer's own size");
    }
    expect(num_parameters(config) == owned, "parameters are those of the files");
    expect(grouped == owned + (tied ? 100 * 32 : 0), "each tensor in one group, the tied head once more");
  }
}

int check_all() {
  architectures_tell_families_of_one_model_type_apart();
  records_say_what_becomes_of_tensors();
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}

int print_logits(const std::string& folder, const std::string& compute_type, const std::vector<std::int32_t>& tokens) {
  const Family* const families[] = {&kLayers};
  const ModelConfig config = load_config(folder, families);
  cpu::register_tables();
  const Ops& ops = find_table("generic");
  ThreadPool pool(1);
  const Memory memory(ops);
  const Stream stream{&pool};
  const Weights weights = load_weights(folder, config, compute_type, ops, memory, stream);
  if (weights.num_bytes != num_weight_bytes(config, weights.type, ops)) fail(ErrorKind::kInternal, "bytes of weights");
  KvPool slots(config, weights.type.rows, memory);
  slots.reserve(kv_slot_bytes(config, weights.type.rows, static_cast<std::int64_t>(tokens.size())));
  const std::int32_t slot = slots.open(tokens);
  Transformer model(config, weights, ops, memory);
  ForwardBatch batch;
  batch.begin(slots.at(slot).view(), static_cast<std::int64_t>(tokens.size()));
  for (std::size_t i = 0; i < tokens.size(); ++i) batch.wanted.push_back(batch.add(static_cast<std::int32_t>(i)));
  const ConstTensor hidden = model.forward(stream, batch);
  std::vector<float> logits(tokens.size() * static_cast<std::size_t>(config.vocab_size));
  ops.matmul(stream, hidden, weights.head, /*accumulate=*/false,
             {logits.data(), DType::kFloat32, hidden.rows, config.vocab_size});
  for (const float logit : logits) std::printf("%.9g\n", static_cast<double>(logit));
  return 0;
}

}  // namespace
}  // namespace llada

int main(int argc, char** argv) {
  try {
    if (argc < 4) return llada::check_all();
    std::vector<std::int32_t> tokens;
    for (int i = 3; i < argc; ++i) tokens.push_back(std::atoi(argv[i]));
    return llada::print_logits(argv[1], argv[2], tokens);
  } catch (const llada::Error& error) {
    std::fprintf(stderr, "%s: %s\n", error.kind() == llada::ErrorKind::kUnsupportedModel ? "unsupported" : "error",
                 error.what());
    return 1;
  }
}
