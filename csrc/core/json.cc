#include "core/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <memory_resource>
#include <optional>
#include <vector>

#include "core/check.h"
#include "core/text.h"

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

// Writes a code point; returns behind it.
char* put_utf8(char* to, std::uint32_t code) {
  const auto put = [&](std::uint32_t byte) { *to++ = static_cast<char>(byte); };
  if (code < 0x80) return put(code), to;
  if (code < 0x800) return put(0xc0 | code >> 6), put(0x80 | (code & 0x3f)), to;
  if (code < 0x10000) return put(0xe0 | code >> 12), put(0x80 | (code >> 6 & 0x3f)), put(0x80 | (code & 0x3f)), to;
  put(0xf0 | code >> 18), put(0x80 | (code >> 12 & 0x3f)), put(0x80 | (code >> 6 & 0x3f)), put(0x80 | (code & 0x3f));
  return to;
}

// A key that is there twice. By sorting: no choice of keys makes it slow, as it can with a hash that the file's author
// knows.
std::optional<std::string_view> repeated_key(std::span<const JsonMember> members) {
  std::vector<std::string_view> keys;
  keys.reserve(members.size());
  for (const JsonMember& member : members) keys.push_back(member.key);
  std::sort(keys.begin(), keys.end());
  const auto twice = std::adjacent_find(keys.begin(), keys.end());
  return twice == keys.end() ? std::nullopt : std::optional(*twice);
}

}  // namespace

struct JsonDocument::Storage : std::pmr::monotonic_buffer_resource {};

// Escapes are decoded where they stand, as what they mean is never longer than they are.
class JsonParser {
 public:
  JsonParser(std::string& text, std::pmr::memory_resource& storage, const std::string& where)
      : text_(text), begin_(text.data()), storage_(storage), where_(where) {}

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
    if (++num_values_ > Json::kMaxValues) wrong("more than " + std::to_string(Json::kMaxValues) + " values");
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

  static Json string_value(std::string_view text) {
    Json value;
    value.type_ = Json::Type::kString;
    value.string_ = text.data();
    value.size_ = static_cast<std::uint32_t>(text.size());
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

  // What was pushed since the stack had `begin` elements, moved to where it stays.
  template <class T>
  std::span<const T> keep(std::vector<T>& stack, std::size_t begin) {
    const std::size_t count = stack.size() - begin;
    T* const kept = static_cast<T*>(storage_.allocate(count * sizeof(T), alignof(T)));
    std::uninitialized_copy(stack.begin() + static_cast<std::ptrdiff_t>(begin), stack.end(), kept);
    stack.resize(begin);
    return {kept, count};
  }

  Json parse_object(int depth) {
    Json value;
    value.type_ = Json::Type::kObject;
    ++at_;
    skip_space();
    if (take('}')) return value;
    const std::size_t begin = members_.size();
    do {
      skip_space();
      if (peek() != '"') wrong("something other than a key");
      const std::string_view key = parse_string();
      skip_space();
      if (!take(':')) wrong("no ':' after a key");
      const Json member = parse_value(depth + 1);
      members_.push_back({key, member});
      skip_space();
    } while (take(','));
    if (!take('}')) wrong("an object without its end");
    const std::span<const JsonMember> kept = keep(members_, begin);
    if (const auto key = repeated_key(kept)) wrong("the key \"" + excerpt(*key) + "\" twice");
    value.members_ = kept.data();
    value.size_ = static_cast<std::uint32_t>(kept.size());
    return value;
  }

  Json parse_array(int depth) {
    Json value;
    value.type_ = Json::Type::kArray;
    ++at_;
    skip_space();
    if (take(']')) return value;
    const std::size_t begin = elements_.size();
    do {
      elements_.push_back(parse_value(depth + 1));
      skip_space();
    } while (take(','));
    if (!take(']')) wrong("an array without its end");
    const std::span<const Json> kept = keep(elements_, begin);
    value.elements_ = kept.data();
    value.size_ = static_cast<std::uint32_t>(kept.size());
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

  std::string_view parse_string() {
    ++at_;
    char* const first = begin_ + at_;
    char* out = first;
    while (!take('"')) {
      if (at_ >= text_.size()) wrong("a string without its end");
      if (static_cast<unsigned char>(peek()) < 0x20) wrong("a control character in a string");
      if (take('\\')) {
        out = parse_escape(out);
        continue;
      }
      const std::size_t length = utf8_length(text_.substr(at_));
      if (length == 0) wrong("bytes that are not UTF-8");
      for (std::size_t i = 0; i < length; ++i) *out++ = begin_[at_++];
    }
    return {first, static_cast<std::size_t>(out - first)};
  }

  char* parse_escape(char* out) {
    constexpr std::string_view kFrom = "\"\\/bfnrt";
    constexpr std::string_view kTo = "\"\\/\b\f\n\r\t";
    if (const auto i = kFrom.find(peek()); i != std::string_view::npos && at_ < text_.size()) {
      ++at_;
      *out++ = kTo[i];
      return out;
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
    return put_utf8(out, code);
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
    } else {
      value.type_ = Json::Type::kNumber;
      if (std::from_chars(first, last, value.number_).ec != std::errc() || !std::isfinite(value.number_))
        wrong("a number beyond double precision");
    }
    return value;
  }

  const std::string_view text_;
  char* const begin_;  // of the same
  std::pmr::memory_resource& storage_;
  const std::string& where_;
  std::size_t at_ = 0;
  std::int64_t num_values_ = 0;
  // Values of the arrays and objects that have begun and not ended.
  std::vector<Json> elements_;
  std::vector<JsonMember> members_;
};

JsonDocument::JsonDocument(std::string text, const std::string& where)
    : text_(std::move(text)), storage_(std::make_unique<Storage>()) {
  root_ = JsonParser(text_, *storage_, where).document();
}

JsonDocument::~JsonDocument() = default;

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
  if (type_ == Type::kInteger) return static_cast<double>(integer_);
  if (type_ != Type::kNumber) wrong_type("a number", where);
  return number_;
}

std::string_view Json::as_string(const std::string& where) const {
  if (type_ != Type::kString) wrong_type("a string", where);
  return {string_, size_};
}

std::span<const Json> Json::as_array(const std::string& where) const {
  if (type_ != Type::kArray) wrong_type("an array", where);
  return {size_ > 0 ? elements_ : nullptr, size_};
}

std::span<const JsonMember> Json::as_object(const std::string& where) const {
  if (type_ != Type::kObject) wrong_type("an object", where);
  return {size_ > 0 ? members_ : nullptr, size_};
}

const Json* Json::find(std::string_view key) const {
  if (type_ != Type::kObject || size_ == 0) return nullptr;
  for (const JsonMember& member : std::span(members_, size_))
    if (member.key == key) return &member.value;
  return nullptr;
}

}  // namespace llada
