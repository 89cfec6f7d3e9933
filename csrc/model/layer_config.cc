#include "model/layer_config.h"

namespace llada {

const char* name_of(QkNorm value) {
  constexpr const char* kNames[] = {"none", "per_head", "whole"};
  return kNames[static_cast<int>(value)];
}

const char* name_of(QkNormPlace value) {
  constexpr const char* kNames[] = {"before_rope", "after_rope"};
  return kNames[static_cast<int>(value)];
}

const char* name_of(AttentionKind value) {
  constexpr const char* kNames[] = {"full", "block_causal"};
  return kNames[static_cast<int>(value)];
}

const char* name_of(MlpKind value) {
  constexpr const char* kNames[] = {"dense", "moe"};
  return kNames[static_cast<int>(value)];
}

const char* name_of(Router value) {
  constexpr const char* kNames[] = {"none", "softmax", "grouped_sigmoid"};
  return kNames[static_cast<int>(value)];
}

}  // namespace llada
