// Families of models: what their config.json and their tensors are called. The network itself is the transformer's.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace llada {

class ConfigFields;
struct ModelConfig;
struct TensorRecord;

struct Family {
  const char* name;          // for messages
  const char* model_type;    // in config.json
  const char* architecture;  // in its list `architectures`, which tells families of one model_type apart
  // The shape, without what load_config reads of every family. Throws ModelFormatError, UnsupportedModelError.
  ModelConfig (*read_config)(const ConfigFields& fields);
  // In the order of the forward pass.
  std::vector<TensorRecord> (*tensor_records)(const ModelConfig& config);
};

// Those that this runtime loads.
std::span<const Family* const> known_families();

// The family of that model_type: the one whose architecture is in the list, else the first one. Throws
// UnsupportedModelError with the list of what there is.
const Family& find_family(std::string_view model_type, const std::vector<std::string>& architectures,
                          std::span<const Family* const> families = known_families());

}  // namespace llada
