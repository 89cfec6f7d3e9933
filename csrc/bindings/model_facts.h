// A model's shape as Python sees it.
#pragma once

#include "bindings/convert.h"
#include "model/config.h"

namespace llada {

py::dict config_dict(const ModelConfig& config);

}  // namespace llada
