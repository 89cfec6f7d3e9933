// What a layer of a transformer may be, as values. A family fills the values in, and the transformer reads them. The
// values can say more than the transformer does today: supported.h refuses the rest by name. training/layer_config.py
// has the same fields.
#pragma once

#include <cstdint>

namespace llada {

enum class QkNorm { kNone, kPerHead, kWhole };       // RMSNorm of Q and of K: over each head, or over all heads at once
enum class QkNormPlace { kBeforeRope, kAfterRope };  // means nothing without a norm
enum class AttentionKind { kFull, kBlockCausal };    // kBlockCausal: a position sees its block and those before
enum class MlpKind { kDense, kMoe };                 // kMoe: a router chooses experts for each row
enum class Router { kNone, kSoftmax, kGroupedSigmoid };  // how the experts' logits become a choice and weights

const char* name_of(QkNorm value);
const char* name_of(QkNormPlace value);
const char* name_of(AttentionKind value);
const char* name_of(MlpKind value);
const char* name_of(Router value);

struct LayerConfig {
  std::int64_t head_dim = 0;
  std::int64_t rotary_dim = 0;  // leading dimensions of a head that are rotated; the others pass through
  bool qkv_bias = false;        // of all three projections
  QkNorm qk_norm = QkNorm::kNone;
  QkNormPlace qk_norm_place = QkNormPlace::kBeforeRope;
  AttentionKind attention = AttentionKind::kFull;
  MlpKind mlp = MlpKind::kDense;
  std::int64_t mlp_hidden_size = 0;     // of the dense MLP, or of each expert
  std::int64_t num_experts = 0;         // 0 in a dense layer; so are the next two
  std::int64_t top_k = 0;               // experts that a row goes through
  std::int64_t num_shared_experts = 0;  // that every row goes through beside them
  Router router = Router::kNone;
};

}  // namespace llada
