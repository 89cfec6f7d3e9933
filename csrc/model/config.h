// The shape of a LLaDA model, read from config.json alone: a key that matters and is missing is an error, never a class
// default (those of the published configuration file describe another model).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace llada {

struct ModelConfig {
  std::int64_t d_model = 0;
  std::int64_t num_layers = 0;
  std::int64_t num_heads = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t mlp_hidden_size = 0;
  std::int64_t vocab_size = 0;  // rows of the embedding and of the head
  std::int64_t max_sequence_length = 0;
  double rope_theta = 0;
  double rms_norm_eps = 0;
  bool weight_tying = false;
  std::string quantization;         // of the stored matrices: "" (none), "int8" or "int4", see model/quantization.h
  std::int64_t mask_token_id = -1;  // -1: not given
  std::int64_t eos_token_id = -1;
  std::int64_t pad_token_id = -1;
  std::vector<std::string> unknown_keys;  // of config.json: nobody here knows what they ask for, see config_keys.h
};

// `folder`/config.json. Throws ModelNotFoundError, ModelFormatError, and UnsupportedModelError naming the field that
// this forward pass does not implement.
ModelConfig load_config(const std::string& folder);

}  // namespace llada
