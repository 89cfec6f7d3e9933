#include "model/config.h"

#include "core/check.h"
#include "core/json.h"
#include "core/text.h"
#include "model/config_fields.h"
#include "model/config_keys.h"
#include "model/files.h"
#include "model/supported.h"

namespace llada {
namespace {

constexpr std::int64_t kMaxConfigBytes = 1 << 20;

// The record that `llada-rt convert` writes. Anything in it that this version does not know is another format.
std::string quantization_of(const ConfigFields& fields) {
  const Json* record = fields.optional("quantization");
  if (record == nullptr) return "";
  record->as_object(fields.where("quantization"));
  const ConfigFields own(*record, fields.where("quantization"));
  own.only("method", "llada_rt");
  own.only_integer("version", 1);
  const std::string_view type = own.required("compute_type").as_string(own.where("compute_type"));
  check(type == "int8" || type == "int4", ErrorKind::kUnsupportedModel, own.where("compute_type"),
        ": expected \"int8\" or \"int4\", got \"", excerpt(type), "\"");
  own.only_integer("group_size", type == "int8" ? 0 : 32);
  return std::string(type);
}

}  // namespace

ModelConfig load_config(const std::string& folder, std::span<const Family* const> families) {
  const std::string path = resolve_model_file(folder, "config.json");
  const JsonDocument document(read_text_file(path, kMaxConfigBytes), "config.json");
  const Json& object = document.root();
  object.as_object("config.json");
  const ConfigFields fields(object, "config.json");

  const std::string_view model_type = fields.required("model_type").as_string(fields.where("model_type"));
  const Family& family = find_family(model_type, fields.texts("architectures"), families);
  ModelConfig config = family.read_config(fields);
  config.family = &family;
  check_supported(config);
  config.quantization = quantization_of(fields);
  config.mask_token_id = fields.token_id("mask_token_id", config.vocab_size);
  config.eos_token_id = fields.token_id("eos_token_id", config.vocab_size);
  config.pad_token_id = fields.token_id("pad_token_id", config.vocab_size);
  // Last: what a key may say depends on the sizes.
  config.unknown_keys = check_other_keys(object, fields.read(), config);
  return config;
}

}  // namespace llada
