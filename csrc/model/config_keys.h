// The keys of config.json that the loader does not read: which of them may say anything, which may say one thing only,
// and which nobody here knows.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "core/json.h"
#include "model/config.h"

namespace llada {

// Throws UnsupportedModelError that names the first key whose value asks for something that the forward pass does not
// do. Returns the names of the keys that are neither in `read` nor in the table: they may ask for anything.
std::vector<std::string> check_other_keys(const Json& object, const std::set<std::string>& read,
                                          const ModelConfig& config);

// A value for a message: short, whatever it is.
std::string text_of(const Json& value);

}  // namespace llada
