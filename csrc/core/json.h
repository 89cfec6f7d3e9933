// A small strict JSON reader for model files, which are untrusted. Depth, size and number of values are bounded.
// Duplicate keys, NaN literals, bad UTF-8 and trailing text are errors. Integers keep their 64 bits. A value takes 16
// bytes, a member of an object 32, and strings stay in the text: a text and its values together take a small multiple
// of the text.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace llada {

struct JsonMember;

class Json {
 public:
  enum class Type : std::uint8_t { kNull, kBool, kInteger, kNumber, kString, kArray, kObject };

  static constexpr std::int64_t kMaxValues = std::int64_t{1} << 20;

  Type type() const { return type_; }
  bool is_null() const { return type_ == Type::kNull; }
  bool is_array() const { return type_ == Type::kArray; }

  // Each throws ModelFormatError naming `where`, the expected type and what came.
  bool as_bool(const std::string& where) const;
  std::int64_t as_integer(const std::string& where) const;
  double as_number(const std::string& where) const;
  std::string_view as_string(const std::string& where) const;
  std::span<const Json> as_array(const std::string& where) const;
  std::span<const JsonMember> as_object(const std::string& where) const;

  // Member of an object, or nullptr.
  const Json* find(std::string_view key) const;

 private:
  friend class JsonParser;
  [[noreturn]] void wrong_type(const char* expected, const std::string& where) const;

  Type type_ = Type::kNull;
  std::uint32_t size_ = 0;  // of a string in bytes, of an array or object in elements
  union {
    bool bool_;
    std::int64_t integer_ = 0;
    double number_;
    const char* string_;
    const Json* elements_;
    const JsonMember* members_;
  };
};

struct JsonMember {
  std::string_view key;
  Json value;
};

// A text and the values in it, which live as long as this does.
class JsonDocument {
 public:
  // `where` names the text in error messages. Throws ModelFormatError.
  JsonDocument(std::string text, const std::string& where);
  ~JsonDocument();
  JsonDocument(const JsonDocument&) = delete;
  JsonDocument& operator=(const JsonDocument&) = delete;

  const Json& root() const { return root_; }

 private:
  friend class JsonParser;
  struct Storage;  // of arrays and objects

  std::string text_;
  std::unique_ptr<Storage> storage_;
  Json root_;
};

}  // namespace llada
