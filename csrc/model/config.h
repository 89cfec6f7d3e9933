// The shape of a model, read from config.json alone. A key that matters and is missing is an error, and no class
// default stands in: the defaults of the published configuration files describe other models.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/families/registry.h"
#include "model/layer_config.h"

namespace llada {

struct ModelConfig {
  const Family* family = nullptr;
  std::int64_t d_model = 0;
  std::int64_t num_heads = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t vocab_size = 0;  // rows of the embedding and of the head
  std::int64_t max_sequence_length = 0;
  double rope_theta = 0;
  double rms_norm_eps = 0;
  std::vector<LayerConfig> layers;  // in the order of the forward pass; they may differ
  bool tied_head = false;           // the head is the embedding
  bool logit_shift = false;         // the logits of position i - 1 speak for position i
  std::int64_t block_length = 0;    // of block-causal attention, counted from position 0; 0: the model has no blocks
  std::string quantization;         // of the stored matrices: "" (none), "int8" or "int4", see model/quantization.h
  std::int64_t mask_token_id = -1;  // -1: not given
  std::int64_t eos_token_id = -1;
  std::int64_t pad_token_id = -1;
  std::vector<std::string> unknown_keys;  // of config.json: nobody here knows what they ask for, see config_keys.h

  std::int64_t num_layers() const { return static_cast<std::int64_t>(layers.size()); }
  const LayerConfig& layer(std::int64_t index) const { return layers[static_cast<std::size_t>(index)]; }
};

// `folder`/config.json, of one of the `families`. Throws ModelNotFoundError, ModelFormatError, and
// UnsupportedModelError naming the field that this forward pass does not implement.
ModelConfig load_config(const std::string& folder, std::span<const Family* const> families = known_families());

}  // namespace llada
