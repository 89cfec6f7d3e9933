#include "model/config.h"

#include <cmath>
#include <limits>
#include <set>
#include <sstream>

#include "core/check.h"
#include "core/json.h"
#include "core/text.h"
#include "model/config_keys.h"
#include "model/files.h"

namespace llada {
namespace {

constexpr std::int64_t kMaxConfigBytes = 1 << 20;
constexpr std::int64_t kMaxSize = 1 << 24;  // of any one dimension: products of two stay far below 2^63

// Reads fields by name, so that every message carries file and field. Remembers which fields it was asked for.
class Fields {
 public:
  Fields(const Json& object, std::string file) : object_(object), file_(std::move(file)) {}

  std::string where(const char* key) const { return file_ + ": " + key; }

  const std::set<std::string>& read() const { return read_; }

  const Json* optional(const char* key) const {
    read_.insert(key);
    const Json* value = object_.find(key);
    return value != nullptr && !value->is_null() ? value : nullptr;
  }

  const Json& required(const char* key) const {
    const Json* value = optional(key);
    check(value != nullptr, ErrorKind::kModelFormat, file_, ": expected the key \"", key, "\", which is missing");
    return *value;
  }

  std::int64_t size(const char* key) const { return size_in(key, required(key), kMaxSize); }

  std::int64_t size_in(const char* key, const Json& value, std::int64_t largest) const {
    const std::int64_t size = value.as_integer(where(key));
    check(size >= 1 && size <= largest, ErrorKind::kModelFormat, where(key), ": expected 1 to ", largest, ", got ",
          size);
    return size;
  }

  double positive(const char* key) const { return positive_in(key, required(key)); }

  double positive_in(const char* key, const Json& number) const {
    const double value = number.as_number(where(key));
    check(value > 0 && std::isfinite(value), ErrorKind::kModelFormat, where(key), ": expected a positive number, got ",
          value);
    return value;
  }

  std::int64_t token_id(const char* key, std::int64_t vocab_size) const {
    const Json* value = optional(key);
    if (value == nullptr) return -1;
    // A list of ids is as good as one: here its first id stands for all of them.
    if (value->is_array()) {
      const auto ids = value->as_array(where(key));
      check(!ids.empty(), ErrorKind::kModelFormat, where(key), ": expected a token id or some, got an empty list");
      std::int64_t first = -1;
      for (const Json& each : ids) {
        const std::int64_t id = checked_id(key, each, vocab_size);
        if (first < 0) first = id;
      }
      return first;
    }
    return checked_id(key, *value, vocab_size);
  }

  std::int64_t checked_id(const char* key, const Json& value, std::int64_t vocab_size) const {
    const std::int64_t id = value.as_integer(where(key));
    check(id >= 0 && id < vocab_size, ErrorKind::kModelFormat, where(key), ": expected a token id below ", vocab_size,
          ", got ", id);
    return id;
  }

  // The forward pass implements one value only.
  void only(const char* key, const std::string& supported) const {
    const std::string_view value = required(key).as_string(where(key));
    check(value == supported, ErrorKind::kUnsupportedModel, where(key), ": expected \"", supported, "\", got \"",
          excerpt(value), "\"");
  }
  void only_flag(const char* key, bool supported) const {
    const Json* value = optional(key);
    if (value == nullptr) return;  // the tensor list decides: a bias or a norm that is there has no place to go
    check(value->as_bool(where(key)) == supported, ErrorKind::kUnsupportedModel, where(key), ": expected ",
          supported ? "true" : "false", ", got ", supported ? "false" : "true");
  }
  void only_integer(const char* key, std::int64_t supported) const {
    const std::int64_t value = required(key).as_integer(where(key));
    check(value == supported, ErrorKind::kUnsupportedModel, where(key), ": expected ", supported, ", got ", value);
  }

 private:
  const Json& object_;
  std::string file_;
  mutable std::set<std::string> read_;
};

std::int64_t num_kv_heads(const Fields& fields, std::int64_t num_heads) {
  const Json* count = fields.optional("n_kv_heads");
  const Json* multi_query = fields.optional("multi_query_attention");
  const bool one = multi_query != nullptr && multi_query->as_bool(fields.where("multi_query_attention"));
  const std::int64_t heads = count != nullptr ? fields.size("n_kv_heads") : one ? 1 : num_heads;
  check(!one || heads == 1, ErrorKind::kModelFormat, fields.where("multi_query_attention"),
        ": true expected n_kv_heads 1, got ", heads);
  check(num_heads % heads == 0, ErrorKind::kModelFormat, fields.where("n_kv_heads"), ": expected a divisor of n_heads ",
        num_heads, ", got ", heads);
  return heads;
}

// rope_theta, or the record that transformers 5 writes in its place. Both may be there, and must agree then.
double rope_theta_of(const Fields& fields) {
  const Json* record = fields.optional("rope_parameters");
  if (record == nullptr) return fields.positive("rope_theta");
  const Fields own(*record, fields.where("rope_parameters"));
  for (const auto& [key, value] : record->as_object(fields.where("rope_parameters"))) {
    check(key == "rope_theta" || key == "rope_type" || value.is_null(), ErrorKind::kUnsupportedModel,
          fields.where("rope_parameters"), ": expected rope_theta and rope_type, got \"", excerpt(key), "\"");
  }
  if (own.optional("rope_type") != nullptr) own.only("rope_type", "default");
  if (own.optional("rope_theta") == nullptr) return fields.positive("rope_theta");
  const double theta = own.positive("rope_theta");
  if (const Json* outer = fields.optional("rope_theta")) {
    const double other = fields.positive_in("rope_theta", *outer);
    check(other == theta, ErrorKind::kModelFormat, fields.where("rope_theta"), ": expected ", theta,
          " as in rope_parameters, got ", other);
  }
  return theta;
}

// The record that `llada-rt convert` writes. Anything in it that this version does not know is another format.
std::string quantization_of(const Fields& fields) {
  const Json* record = fields.optional("quantization");
  if (record == nullptr) return "";
  record->as_object(fields.where("quantization"));
  const Fields own(*record, fields.where("quantization"));
  own.only("method", "llada_rt");
  own.only_integer("version", 1);
  const std::string_view type = own.required("compute_type").as_string(own.where("compute_type"));
  check(type == "int8" || type == "int4", ErrorKind::kUnsupportedModel, own.where("compute_type"),
        ": expected \"int8\" or \"int4\", got \"", excerpt(type), "\"");
  own.only_integer("group_size", type == "int8" ? 0 : 32);
  return std::string(type);
}

}  // namespace

ModelConfig load_config(const std::string& folder) {
  const std::string path = resolve_model_file(folder, "config.json");
  const JsonDocument document(read_text_file(path, kMaxConfigBytes), "config.json");
  const Json& object = document.root();
  object.as_object("config.json");
  const Fields fields(object, "config.json");

  fields.only("model_type", "llada");
  fields.only("block_type", "llama");
  fields.only("activation_type", "silu");
  fields.only("layer_norm_type", "rms");
  fields.required("rope");
  fields.only_flag("rope", true);

  ModelConfig config;
  config.d_model = fields.size("d_model");
  config.num_layers = fields.size_in("n_layers", fields.required("n_layers"), 4096);
  config.num_heads = fields.size("n_heads");
  config.num_kv_heads = num_kv_heads(fields, config.num_heads);
  check(config.d_model % config.num_heads == 0, ErrorKind::kModelFormat, fields.where("n_heads"),
        ": expected a divisor of d_model ", config.d_model, ", got ", config.num_heads);
  config.head_dim = config.d_model / config.num_heads;
  check(config.head_dim % 8 == 0, ErrorKind::kUnsupportedModel, fields.where("n_heads"),
        ": expected a head_dim (d_model / n_heads) that is a multiple of 8, got ", config.head_dim);
  if (fields.optional("mlp_hidden_size") != nullptr) {
    config.mlp_hidden_size = fields.size("mlp_hidden_size");
  } else {
    const double size = fields.positive("mlp_ratio") * static_cast<double>(config.d_model);
    check(size >= 1 && size <= static_cast<double>(kMaxSize) && size == std::floor(size), ErrorKind::kModelFormat,
          fields.where("mlp_ratio"), ": expected a whole mlp_ratio * d_model, got ", size);
    config.mlp_hidden_size = static_cast<std::int64_t>(size);
  }
  const std::int64_t vocab_size = fields.size("vocab_size");
  config.vocab_size = fields.optional("embedding_size") != nullptr ? fields.size("embedding_size") : vocab_size;
  check(config.vocab_size >= vocab_size, ErrorKind::kModelFormat, fields.where("embedding_size"),
        ": expected at least vocab_size ", vocab_size, ", got ", config.vocab_size);
  config.max_sequence_length = fields.size("max_sequence_length");
  config.rope_theta = rope_theta_of(fields);
  config.rms_norm_eps = fields.positive("rms_norm_eps");
  config.weight_tying = fields.required("weight_tying").as_bool(fields.where("weight_tying"));
  config.quantization = quantization_of(fields);
  config.mask_token_id = fields.token_id("mask_token_id", config.vocab_size);
  config.eos_token_id = fields.token_id("eos_token_id", config.vocab_size);
  config.pad_token_id = fields.token_id("pad_token_id", config.vocab_size);
  // Last: what a key may say depends on the sizes.
  config.unknown_keys = check_other_keys(object, fields.read(), config);
  return config;
}

}  // namespace llada
