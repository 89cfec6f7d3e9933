#include "model/config_fields.h"

#include <cmath>
#include <string_view>

#include "core/check.h"
#include "core/text.h"

namespace llada {

void ConfigFields::ignore(std::initializer_list<const char*> keys) const { read_.insert(keys.begin(), keys.end()); }

const Json* ConfigFields::optional(const char* key) const {
  read_.insert(key);
  const Json* value = object_.find(key);
  return value != nullptr && !value->is_null() ? value : nullptr;
}

const Json& ConfigFields::required(const char* key) const {
  const Json* value = optional(key);
  check(value != nullptr, ErrorKind::kModelFormat, file_, ": expected the key \"", key, "\", which is missing");
  return *value;
}

std::int64_t ConfigFields::size(const char* key, std::int64_t largest) const {
  const std::int64_t size = required(key).as_integer(where(key));
  check(size >= 1 && size <= largest, ErrorKind::kModelFormat, where(key), ": expected 1 to ", largest, ", got ", size);
  return size;
}

double ConfigFields::positive(const char* key) const {
  const double value = required(key).as_number(where(key));
  check(value > 0 && std::isfinite(value), ErrorKind::kModelFormat, where(key), ": expected a positive number, got ",
        value);
  return value;
}

bool ConfigFields::flag(const char* key) const { return required(key).as_bool(where(key)); }

std::int64_t ConfigFields::token_id(const char* key, std::int64_t vocab_size) const {
  const Json* value = optional(key);
  if (value == nullptr) return -1;
  if (!value->is_array()) return checked_id(key, *value, vocab_size);
  const auto ids = value->as_array(where(key));
  check(!ids.empty(), ErrorKind::kModelFormat, where(key), ": expected a token id or some, got an empty list");
  std::int64_t first = -1;
  for (const Json& each : ids) {
    const std::int64_t id = checked_id(key, each, vocab_size);
    if (first < 0) first = id;
  }
  return first;
}

std::int64_t ConfigFields::checked_id(const char* key, const Json& value, std::int64_t vocab_size) const {
  const std::int64_t id = value.as_integer(where(key));
  check(id >= 0 && id < vocab_size, ErrorKind::kModelFormat, where(key), ": expected a token id below ", vocab_size,
        ", got ", id);
  return id;
}

std::vector<std::string> ConfigFields::texts(const char* key) const {
  const Json* value = optional(key);
  std::vector<std::string> found;
  if (value == nullptr || !value->is_array()) return found;
  for (const Json& each : value->as_array(where(key)))
    if (each.type() == Json::Type::kString) found.emplace_back(each.as_string(where(key)));
  return found;
}

void ConfigFields::only(const char* key, const std::string& supported) const {
  const std::string_view value = required(key).as_string(where(key));
  check(value == supported, ErrorKind::kUnsupportedModel, where(key), ": expected \"", supported, "\", got \"",
        excerpt(value), "\"");
}

void ConfigFields::only_flag(const char* key, bool supported) const {
  const Json* value = optional(key);
  if (value == nullptr) return;
  check(value->as_bool(where(key)) == supported, ErrorKind::kUnsupportedModel, where(key), ": expected ",
        supported ? "true" : "false", ", got ", supported ? "false" : "true");
}

void ConfigFields::only_integer(const char* key, std::int64_t supported) const {
  const std::int64_t value = required(key).as_integer(where(key));
  check(value == supported, ErrorKind::kUnsupportedModel, where(key), ": expected ", supported, ", got ", value);
}

double ConfigFields::rope_theta() const {
  const Json* record = optional("rope_parameters");
  if (record == nullptr) return positive("rope_theta");
  const ConfigFields own(*record, where("rope_parameters"));
  for (const auto& [key, value] : record->as_object(where("rope_parameters"))) {
    check(key == "rope_theta" || key == "rope_type" || value.is_null(), ErrorKind::kUnsupportedModel,
          where("rope_parameters"), ": expected rope_theta and rope_type, got \"", excerpt(key), "\"");
  }
  if (own.optional("rope_type") != nullptr) own.only("rope_type", "default");
  if (own.optional("rope_theta") == nullptr) return positive("rope_theta");
  const double theta = own.positive("rope_theta");
  if (optional("rope_theta") != nullptr) {
    const double other = positive("rope_theta");
    check(other == theta, ErrorKind::kModelFormat, where("rope_theta"), ": expected ", theta,
          " as in rope_parameters, got ", other);
  }
  return theta;
}

}  // namespace llada
