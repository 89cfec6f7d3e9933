#include "model/config_keys.h"

#include <cmath>
#include <initializer_list>
#include <sstream>
#include <string_view>
#include <unordered_map>

#include "core/check.h"

namespace llada {
namespace {

bool is_number(const Json& value) {
  return value.type() == Json::Type::kInteger || value.type() == Json::Type::kNumber;
}

template <class Number>
bool equals(const Json& value, Number wanted) {
  const auto number = static_cast<double>(wanted);
  return is_number(value) && std::abs(value.as_number("") - number) <= 1e-6 * std::abs(number);
}

bool is_flag(const Json& value, bool flag) { return value.type() == Json::Type::kBool && value.as_bool("") == flag; }

bool is_one_of(const Json& value, std::initializer_list<std::string_view> texts) {
  if (value.type() != Json::Type::kString) return false;
  for (const std::string_view text : texts) {
    if (value.as_string("") == text) return true;
  }
  return false;
}

// What a rule may look at beside the value.
struct Facts {
  const Json& object;  // all of config.json
  const ModelConfig& config;
};

// Whether a value asks for what the forward pass does anyway. null always does.
struct Rule {
  const char* expected;  // for the message
  bool (*accepts)(const Json& value, const Facts& facts);
};

const Rule kAnything{"anything", [](const Json&, const Facts&) { return true; }};
const Rule kNothing{"null", [](const Json&, const Facts&) { return false; }};
const Rule kFalse{"false", [](const Json& value, const Facts&) { return is_flag(value, false); }};
const Rule kTrue{"true", [](const Json& value, const Facts&) { return is_flag(value, true); }};
const Rule kOne{"1", [](const Json& value, const Facts&) { return equals(value, 1); }};
const Rule kZero{"0", [](const Json& value, const Facts&) { return equals(value, 0); }};
const Rule kNoExperts{"0 or 1", [](const Json& value, const Facts&) { return equals(value, 0) || equals(value, 1); }};
const Rule kSilu{"silu", [](const Json& value, const Facts&) { return is_one_of(value, {"silu", "swish"}); }};
const Rule kRms{
    "rms", [](const Json& value, const Facts&) { return is_one_of(value, {"rms", "rmsnorm", "rms_norm", "RMSNorm"}); }};
const Rule kRotary{"rope", [](const Json& value, const Facts&) { return is_one_of(value, {"rope", "rotary"}); }};
const Rule kDefault{"default", [](const Json& value, const Facts&) { return is_one_of(value, {"default"}); }};
const Rule kDModel{"d_model", [](const Json& value, const Facts& f) { return equals(value, f.config.d_model); }};
const Rule kLayers{"n_layers", [](const Json& value, const Facts& f) { return equals(value, f.config.num_layers()); }};
const Rule kHeads{"n_heads", [](const Json& value, const Facts& f) { return equals(value, f.config.num_heads); }};
const Rule kKvHeads{"n_kv_heads",
                    [](const Json& value, const Facts& f) { return equals(value, f.config.num_kv_heads); }};
const Rule kHeadDim{"d_model / n_heads",
                    [](const Json& value, const Facts& f) { return equals(value, f.config.layer(0).head_dim); }};
const Rule kMlpSize{"mlp_hidden_size",
                    [](const Json& value, const Facts& f) { return equals(value, f.config.layer(0).mlp_hidden_size); }};
const Rule kEps{"rms_norm_eps", [](const Json& value, const Facts& f) { return equals(value, f.config.rms_norm_eps); }};
const Rule kScoreScale{"1 / sqrt(d_model / n_heads)", [](const Json& value, const Facts& f) {
                         return equals(value, 1 / std::sqrt(static_cast<double>(f.config.layer(0).head_dim)));
                       }};
const Rule kEmpty{"nothing in it", [](const Json& value, const Facts&) {
                    if (value.is_array()) return value.as_array("").empty();
                    return value.type() == Json::Type::kObject && value.as_object("").empty();
                  }};
// {"rope_type": "default"}, which transformers writes where nothing is scaled.
const Rule kUnscaled{"null or the type default", [](const Json& value, const Facts&) {
                       if (value.type() != Json::Type::kObject) return false;
                       for (const auto& [key, member] : value.as_object("")) {
                         const bool is_type = key == "rope_type" || key == "type";
                         if (!member.is_null() && !(is_type && is_one_of(member, {"default"}))) return false;
                       }
                       return true;
                     }};
// Qwen's configurations name a window and switch it off beside.
const Rule kWindow{"null, or use_sliding_window false", [](const Json&, const Facts& f) {
                     const Json* in_use = f.object.find("use_sliding_window");
                     return in_use != nullptr && is_flag(*in_use, false);
                   }};
const Rule kFullLayers{"full_attention in every layer", [](const Json& value, const Facts&) {
                         if (!value.is_array()) return false;
                         for (const Json& layer : value.as_array("")) {
                           if (!is_one_of(layer, {"full_attention"})) return false;
                         }
                         return true;
                       }};

struct Entry {
  const Rule& rule;
  const char* keys;  // with spaces between
};

// One line for each kind of key. A key that is in no line, and that the loader does not read, is told as unknown.
const std::vector<Entry>& table() {
  static const std::vector<Entry> entries = {
      // What transformers writes of any model: its versions, how it is run, labels of other tasks.
      {kAnything,
       "architectures auto_map torch_dtype dtype transformers_version _name_or_path name_or_path "
       "_commit_hash _attn_implementation _attn_implementation_autoset attn_implementation use_cache "
       "return_dict output_attentions output_hidden_states torchscript use_bfloat16 tf_legacy_loss "
       "chunk_size_feed_forward tie_encoder_decoder cross_attention_hidden_size finetuning_task id2label "
       "label2id num_labels problem_type task_specific_params tokenizer_class prefix model_name "
       "base_model_tp_plan base_model_pp_plan trust_remote_code license unsloth_version unsloth_fixed "
       "unsloth_training_statistics"},
      // How it is generated from, and special ids: python/llada_rt/folder/model_files.py reads those that count.
      {kAnything,
       "bos_token_id eot_token_id sep_token_id unk_token_id cls_token_id decoder_start_token_id max_length "
       "min_length max_new_tokens min_new_tokens do_sample early_stopping num_beams num_beam_groups "
       "diversity_penalty temperature top_k top_p min_p typical_p repetition_penalty length_penalty "
       "no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores "
       "return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values "
       "exponential_decay_length_penalty suppress_tokens begin_suppress_tokens"},
      // Keys of training, of kernels, and of what another key switches off.
      {kAnything,
       "attention_dropout embedding_dropout residual_dropout hidden_dropout hidden_dropout_prob "
       "attention_probs_dropout_prob resid_pdrop embd_pdrop attn_pdrop output_dropout dropout "
       "classifier_dropout initializer_range gradient_checkpointing pretraining_tp flash_attention "
       "use_flash_attn use_flash_attention_2 bf16 fp16 fp32 max_position_embeddings "
       "original_max_position_embeddings max_window_layers output_router_logits router_aux_loss_coef"},
      {kFalse,
       "alibi attention_layer_norm bias_for_layer_norm include_bias include_qkv_bias input_emb_norm "
       "scale_logits norm_after attention_bias mlp_bias qkv_bias use_bias use_qkv_bias bias lm_head_bias "
       "qk_norm use_qk_norm qk_layernorm use_sliding_window use_mrope use_parallel_residual "
       "parallel_residual parallel_attn norm_head norm_softmax scale_embeddings scale_embedding "
       "normalize_embedding rope_interleaved use_scaled_rope attn_output_gate is_causal causal "
       "use_causal_mask is_decoder is_encoder_decoder add_cross_attention moe_router_enable_expert_bias "
       "attention_sinks attn_temperature_tuning"},
      {kTrue, "layer_norm_with_affine rope_full_precision use_rmsnorm full_attn_mask no_bias"},
      {kNothing,
       "clip_qkv quantization_config compression_config attention_block_length attention_window_size "
       "attention_chunk_size attn_logit_softcapping final_logit_softcapping logit_softcap "
       "rope_local_base_freq moe_intermediate_size expert_intermediate_size "
       "shared_expert_intermediate_size moe_layer_freq"},
      {kOne,
       "block_group_size logit_scale logits_scaling embedding_multiplier embedding_scale scale_emb "
       "residual_multiplier lm_head_multiplier partial_rotary_factor rotary_pct rope_percent rope_factor"},
      {kZero, "num_shared_experts n_shared_experts num_nextn_predict_layers first_k_dense_replace"},
      {kNoExperts, "num_experts num_local_experts n_routed_experts num_experts_per_tok num_experts_per_token"},
      {kEmpty, "pruned_heads no_rope_layers"},
      {kUnscaled, "rope_scaling"},
      {kDefault, "rope_type"},
      {kWindow, "sliding_window"},
      {kFullLayers, "layer_types"},
      {kSilu, "hidden_act hidden_activation activation_function"},
      {kRms, "norm_type normalization_type"},
      {kRotary, "position_embedding_type"},
      // The sizes by their other names.
      {kDModel, "hidden_size n_embd"},
      {kLayers, "num_hidden_layers n_layer"},
      {kHeads, "num_attention_heads n_head"},
      {kKvHeads, "num_key_value_heads"},
      {kHeadDim, "head_dim rotary_dim query_pre_attn_scalar"},
      {kMlpSize, "intermediate_size ffn_hidden_size"},
      {kEps, "layer_norm_eps layer_norm_epsilon norm_eps"},
      {kScoreScale, "attention_multiplier softmax_scale"},
  };
  return entries;
}

const std::unordered_map<std::string, const Rule*>& rules() {
  static const auto by_key = [] {
    std::unordered_map<std::string, const Rule*> found;
    for (const Entry& entry : table()) {
      std::istringstream keys(entry.keys);
      for (std::string key; keys >> key;) found.emplace(key, &entry.rule);
    }
    return found;
  }();
  return by_key;
}

}  // namespace

std::string text_of(const Json& value) {
  constexpr std::size_t kLongest = 80;
  switch (value.type()) {
    case Json::Type::kNull:
      return "null";
    case Json::Type::kBool:
      return value.as_bool("") ? "true" : "false";
    case Json::Type::kInteger:
      return std::to_string(value.as_integer(""));
    case Json::Type::kNumber: {
      std::ostringstream text;
      text << value.as_number("");
      return text.str();
    }
    case Json::Type::kString: {
      const std::string text(value.as_string(""));
      if (text.size() <= kLongest) return '"' + text + '"';
      return "a string of " + std::to_string(text.size()) + " bytes";
    }
    case Json::Type::kArray:
      return "a list of " + std::to_string(value.as_array("").size());
    case Json::Type::kObject: {
      std::string text;
      for (const auto& [key, member] : value.as_object("")) {
        const std::string next = (text.empty() ? "" : ", ") + std::string(key) + ": " +
                                 (member.is_array() || member.type() == Json::Type::kObject ? "..." : text_of(member));
        if (text.size() + next.size() > kLongest) return '{' + text + (text.empty() ? "...}" : ", ...}");
        text += next;
      }
      return '{' + text + '}';
    }
  }
  return "?";
}

std::vector<std::string> check_other_keys(const Json& object, const std::set<std::string>& read,
                                          const ModelConfig& config) {
  std::vector<std::string> unknown;
  for (const auto& [name, value] : object.as_object("config.json")) {
    const std::string key(name);
    if (read.count(key) != 0) continue;
    const auto found = rules().find(key);
    if (found == rules().end()) {
      unknown.push_back(key);
      continue;
    }
    const Rule& rule = *found->second;
    check(value.is_null() || rule.accepts(value, {object, config}), ErrorKind::kUnsupportedModel, "config.json: ", key,
          ": expected ", rule.expected, ", got ", text_of(value));
  }
  return unknown;
}

}  // namespace llada
