// The tables of this process: a backend adds its table when the backend is loaded, and a model asks for one by name.
#pragma once

#include <string>
#include <vector>

#include "ops/ops.h"

namespace llada {

// Later tables rank behind earlier ones. The table must live as long as the process.
void register_table(const Ops* table);

// Best first.
const std::vector<const Ops*>& tables();

// The best table for an empty name. Throws DeviceError that lists what there is.
const Ops& find_table(const std::string& name);

}  // namespace llada
