#include "model/supported.h"

#include <string>

#include "core/check.h"

namespace llada {
namespace {

std::string text_of(bool value) { return value ? "true" : "false"; }
std::string text_of(std::int64_t value) { return std::to_string(value); }
template <class Enumeration>
std::string text_of(Enumeration value) {
  return name_of(value);
}

// Fields of one layer, or of the whole model, against the only value that the transformer knows.
class Expectations {
 public:
  explicit Expectations(std::string where) : where_(std::move(where)) {}

  template <class Value>
  void only(const char* field, Value supported, Value value, const char* missing) const {
    check(value == supported, ErrorKind::kUnsupportedModel, where_, field, ": expected ", text_of(supported), ", got ",
          text_of(value), "; this runtime's transformer has no ", missing);
  }

 private:
  const std::string where_;
};

void check_layer(const ModelConfig& config, std::int64_t index) {
  const LayerConfig& layer = config.layer(index);
  const std::string where = "config.json: layer " + std::to_string(index) + ": ";
  const Expectations expect(where);
  const std::int64_t zero = 0;
  // One table of rotation angles serves all layers.
  expect.only("head_dim", config.layer(0).head_dim, layer.head_dim, "layers of different head_dim");
  check(layer.head_dim % 8 == 0, ErrorKind::kUnsupportedModel, where,
        "head_dim (d_model / n_heads, unless the file says it): expected a multiple of 8, got ", layer.head_dim);
  expect.only("rotary_dim", layer.head_dim, layer.rotary_dim, "rotation of a part of a head");
  expect.only("qkv_bias", false, layer.qkv_bias, "biases of projections");
  expect.only("qk_norm", QkNorm::kNone, layer.qk_norm, "norm of queries and keys");
  expect.only("qk_norm_place", QkNormPlace::kBeforeRope, layer.qk_norm_place, "norm of queries and keys");
  expect.only("attention", AttentionKind::kFull, layer.attention, "block-causal attention");
  expect.only("mlp", MlpKind::kDense, layer.mlp, "experts");
  expect.only("num_experts", zero, layer.num_experts, "experts");
  expect.only("top_k", zero, layer.top_k, "experts");
  expect.only("num_shared_experts", zero, layer.num_shared_experts, "experts");
  expect.only("router", Router::kNone, layer.router, "experts");
}

}  // namespace

void check_supported(const ModelConfig& config) {
  const Expectations expect("config.json: ");
  expect.only("logit_shift", false, config.logit_shift, "logits that speak for the next position");
  expect.only("block_length", std::int64_t{0}, config.block_length, "block-causal attention");
  check(config.num_layers() > 0, ErrorKind::kModelFormat, "config.json: expected at least one layer, got none");
  for (std::int64_t layer = 0; layer < config.num_layers(); ++layer) check_layer(config, layer);
}

}  // namespace llada
