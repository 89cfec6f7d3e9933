// A small strict JSON reader for model files, which are untrusted: depth and size are bounded, duplicate keys, NaN
// literals, bad UTF-8 and trailing text are errors, and integers keep their 64 bits.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace llada {

class Json {
 public:
  enum class Type { kNull, kBool, kInteger, kNumber, kString, kArray, kObject };

  // `where` names the text in error messages. Throws ModelFormatError.
  static Json parse(std::string_view text, const std::string& where);

  Type type() const { return type_; }
  bool is_null() const { return type_ == Type::kNull; }
  bool is_array() const { return type_ == Type::kArray; }

  // Each throws ModelFormatError naming `where`, the expected type and what came.
  bool as_bool(const std::string& where) const;
  std::int64_t as_integer(const std::string& where) const;
  double as_number(const std::string& where) const;
  const std::string& as_string(const std::string& where) const;
  const std::vector<Json>& as_array(const std::string& where) const;
  const std::vector<std::pair<std::string, Json>>& as_object(const std::string& where) const;

  // Member of an object, or nullptr.
  const Json* find(std::string_view key) const;

 private:
  friend class JsonParser;
  [[noreturn]] void wrong_type(const char* expected, const std::string& where) const;

  Type type_ = Type::kNull;
  bool bool_ = false;
  std::int64_t integer_ = 0;
  double number_ = 0;
  std::string string_;
  std::vector<Json> array_;
  std::vector<std::pair<std::string, Json>> object_;
};

}  // namespace llada
