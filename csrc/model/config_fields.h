// Reading config.json by the names of its keys, for the families: each message carries file and key.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <set>
#include <string>
#include <vector>

#include "core/json.h"

namespace llada {

// Remembers which keys it was asked for: config_keys.h looks at the others.
class ConfigFields {
 public:
  static constexpr std::int64_t kMaxSize = 1 << 24;  // of any one dimension: products of two stay far below 2^63
  static constexpr std::int64_t kMaxLayers = 4096;

  ConfigFields(const Json& object, std::string file) : object_(object), file_(std::move(file)) {}

  std::string where(const char* key) const { return file_ + ": " + key; }
  const std::set<std::string>& read() const { return read_; }

  // Keys that may say anything: another key decides, or they matter in training only.
  void ignore(std::initializer_list<const char*> keys) const;

  const Json* optional(const char* key) const;  // nullptr also for null
  const Json& required(const char* key) const;

  std::int64_t size(const char* key, std::int64_t largest = kMaxSize) const;
  double positive(const char* key) const;
  bool flag(const char* key) const;
  // -1 where there is none. A list of ids is as good as one: its first id stands for all of them.
  std::int64_t token_id(const char* key, std::int64_t vocab_size) const;
  // The texts of a list; nothing where the key says something else.
  std::vector<std::string> texts(const char* key) const;

  // The network has one value only. Without the key a flag stands for that value: the list of tensors decides, as a
  // bias or a norm that is there has no place to go.
  void only(const char* key, const std::string& supported) const;
  void only_flag(const char* key, bool supported) const;
  void only_integer(const char* key, std::int64_t supported) const;

  // rope_theta, or the record that transformers 5 writes in its place. Both may be there, and must agree then.
  double rope_theta() const;

 private:
  std::int64_t checked_id(const char* key, const Json& value, std::int64_t vocab_size) const;

  const Json& object_;
  const std::string file_;
  mutable std::set<std::string> read_;
};

}  // namespace llada
