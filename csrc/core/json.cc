#include "core/json.h"

#include <charconv>
#include <cmath>
#include <unordered_set>

#include "core/check.h"

namespace llada {
namespace {

constexpr int kMaxDepth = 32;

const char* name_of(Json::Type type) {
  switch (type) {
    case Json::Type::kNull:
      return "null";
    case Json::Type::kBool:
      return "a boolean";
    case Json::Type::kInteger:
      return "an integer";
    case Json::Type::kNumber:
      return "a number";
    case Json::Type::kString:
      return "a string";
    case Json::Type::kArray:
      return "an array";
    case Json::Type::kObject:
      return "an object";
  }
  return "?";
}

// Length of the well-formed UTF-8 sequence at the front of `text` (RFC 3629: no overlong forms, no surrogates), or 0.
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto tail = [&](std::size_t i) { return (byte(i) & 0xc0u) == 0x80u; };
  const unsigned b0 = byte(0), b1 = byte(1);
  if (b0 < 0x80u) return 1;
  if (b0 >= 0xc2u && b0 <= 0xdfu) return tail(1) ? 2 : 0;
  if (b0 >= 0xe0u && b0 <= 0xefu) {
    const bool legal = !(b0 == 0xe0u && b1 < 0xa0u) && !(b0 == 0xedu && b1 > 0x9fu);
    return legal && tail(1) && tail(2) ? 3 : 0;
  }
  if (b0 >= 0xf0u && b0 <= 0xf4u) {
    const bool legal = !(b0 == 0xf0u && b1 < 0x90u) && !(b0 == 0xf4u && b1 > 0x8fu);
    return legal && tail(1) && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

void append_utf8(std::string& out, std::uint32_t code) {
  const auto put = [&](std::uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code < 0x80) return put(code);
  if (code < 0x800) return put(0xc0 | code >> 6), put(0x80 | (code & 0x3f));
  if (code < 0x10000) return put(0xe0 | code >> 12), put(0x80 | (code >> 6 & 0x3f)), put(0x80 | (code & 0x3f));
  put(0xf0 | code >> 18), put(0x80 | (code >> 12 & 0x3f)), put(0x80 | (code >> 6 & 0x3f)), put(0x80 | (code & 0x3f));
}

}  // namespace

class JsonParser {
 public:
  JsonParser(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  Json document() {
    Json value = parse_value(0);
    skip_space();
    if (at_ != text_.size()) wrong("text after the end");
    return value;
  }

 private:
  [[noreturn]] void wrong(const std::string& what) const {
    fail(ErrorKind::kModelFormat, where_, ": expected valid JSON, got ", what, " at byte ", at_);
  }

  void skip_space() {
    while (at_ < text_.size() && std::string_view(" \t\n\r").find(text_[at_]) != std::string_view::npos) ++at_;
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  bool take(char c) {
    if (peek() != c || at_ >= text_.size()) return false;
    ++at_;
    return true;
  }

  Json parse_value(int depth) {
    if (depth > kMaxDepth) wrong("nesting deeper than " + std::to_string(kMaxDepth));
    skip_space();
    if (at_ >= text_.size()) wrong("the end of the text");
    switch (peek()) {
      case '{':
        return parse_object(depth);
      case '[':
        return parse_array(depth);
      case '"':
        return string_value(parse_string());
      case 't':
        return literal("true", Json::Type::kBool, true);
      case 'f':
        return literal("false", Json::Type::kBool, false);
      case 'n':
        return literal("null", Json::Type::kNull, false);
      default:
        return parse_number();
    }
  }

  static Json string_value(std::string text) {
    Json value;
    value.type_ = Json::Type::kString;
    value.string_ = std::move(text);
    return value;
  }

  Json literal(std::string_view word, Json::Type type, bool truth) {
    if (text_.substr(at_, word.size()) != word) wrong("an unknown word");
    at_ += word.size();
    Json value;
    value.type_ = type;
    value.bool_ = truth;
    return value;
  }

  Json parse_object(int depth) {
    Json value;
    value.type_ = Json::Type::kObject;
    ++at_;
    skip_space();
    if (take('}')) return value;
    std::unordered_set<std::string> keys;
    do {
      skip_space();
      if (peek() != '"') wrong("something other than a key");
      std::string key = parse_string();
      if (!keys.insert(key).second) wrong("the key \"" + key + "\" twice");
      skip_space();
      if (!take(':')) wrong("no ':' after a key");
      Json member = parse_value(depth + 1);
      value.object_.emplace_back(std::move(key), std::move(member));
      skip_space();
    } while (take(','));
    if (!take('}')) wrong("an object without its end");
    return value;
  }

  Json parse_array(int depth) {
    Json value;
    value.type_ = Json::Type::kArray;
    ++at_;
    skip_space();
    if (take(']')) return value;
    do {
      value.array_.push_back(parse_value(depth + 1));
      skip_space();
    } while (take(','));
    if (!take(']')) wrong("an array without its end");
    return value;
  }

  std::uint32_t parse_hex4() {
    std::uint32_t code = 0;
    const std::string_view digits = text_.substr(at_, 4);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
    if (error != std::errc() || end != digits.data() + 4) wrong("a broken \\u escape");
    at_ += 4;
    return code;
  }

  std::string parse_string() {
    std::string out;
    ++at_;
    while (!take('"')) {
      if (at_ >= text_.size()) wrong("a string without its end");
      if (static_cast<unsigned char>(peek()) < 0x20) wrong("a control character in a string");
      if (take('\\')) {
        parse_escape(out);
      } else {
        const std::size_t length = utf8_length(text_.substr(at_));
        if (length == 0) wrong("bytes that are not UTF-8");
        out.append(text_.substr(at_, length));
        at_ += length;
      }
    }
    return out;
  }

  void parse_escape(std::string& out) {
    constexpr std::string_view kFrom = "\"\\/bfnrt";
    constexpr std::string_view kTo = "\"\\/\b\f\n\r\t";
    if (const auto i = kFrom.find(peek()); i != std::string_view::npos && at_ < text_.size()) {
      ++at_;
      out.push_back(kTo[i]);
      return;
    }
    if (!take('u')) wrong("an unknown escape");
    std::uint32_t code = parse_hex4();
    if (code >= 0xd800 && code < 0xdc00) {
      if (!take('\\') || !take('u')) wrong("half a surrogate pair");
      const std::uint32_t low = parse_hex4();
      if (low < 0xdc00 || low >= 0xe000) wrong("half a surrogate pair");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code >= 0xdc00 && code < 0xe000) {
      wrong("half a surrogate pair");
    }
    append_utf8(out, code);
  }

  Json parse_number() {
    const std::size_t begin = at_;
    const auto digits = [this] {
      const std::size_t first = at_;
      while (peek() >= '0' && peek() <= '9') ++at_;
      return at_ - first;
    };
    take('-');
    const bool leading_zero = peek() == '0';
    const std::size_t num_digits = digits();
    if (num_digits == 0 || (leading_zero && num_digits > 1)) wrong("no value");
    bool integer = true;
    if (take('.')) {
      integer = false;
      if (digits() == 0) wrong("a broken number");
    }
    if (peek() == 'e' || peek() == 'E') {
      integer = false;
      ++at_;
      if (!take('+')) take('-');
      if (digits() == 0) wrong("a broken number");
    }
    Json value;
    const char* first = text_.data() + begin;
    const char* last = text_.data() + at_;
    if (integer) {
      value.type_ = Json::Type::kInteger;
      if (std::from_chars(first, last, value.integer_).ec != std::errc()) wrong("an integer beyond 64 bits");
      value.number_ = static_cast<double>(value.integer_);
    } else {
      value.type_ = Json::Type::kNumber;
      if (std::from_chars(first, last, value.number_).ec != std::errc() || !std::isfinite(value.number_))
        wrong("a number beyond double precision");
    }
    return value;
  }

  std::string_view text_;
  const std::string& where_;
  std::size_t at_ = 0;
};

Json Json::parse(std::string_view text, const std::string& where) { return JsonParser(text, where).document(); }

void Json::wrong_type(const char* expected, const std::string& where) const {
  fail(ErrorKind::kModelFormat, where, ": expected ", expected, ", got ", name_of(type_));
}

bool Json::as_bool(const std::string& where) const {
  if (type_ != Type::kBool) wrong_type("true or false", where);
  return bool_;
}

std::int64_t Json::as_integer(const std::string& where) const {
  if (type_ != Type::kInteger) wrong_type("an integer", where);
  return integer_;
}

double Json::as_number(const std::string& where) const {
  if (type_ != Type::kInteger && type_ != Type::kNumber) wrong_type("a number", where);
  return number_;
}

const std::string& Json::as_string(const std::string& where) const {
  if (type_ != Type::kString) wrong_type("a string", where);
  return string_;
}

const std::vector<Json>& Json::as_array(const std::string& where) const {
  if (type_ != Type::kArray) wrong_type("an array", where);
  return array_;
}

const std::vector<std::pair<std::string, Json>>& Json::as_object(const std::string& where) const {
  if (type_ != Type::kObject) wrong_type("an object", where);
  return object_;
}

const Json* Json::find(std::string_view key) const {
  for (const auto& [name, value] : object_)
    if (name == key) return &value;
  return nullptr;
}

}  // namespace llada
