// What a configuration can say and the transformer does not do.
#pragma once

#include "model/config.h"

namespace llada {

// Throws UnsupportedModelError that names the first such field, its value and what is missing here.
void check_supported(const ModelConfig& config);

}  // namespace llada
