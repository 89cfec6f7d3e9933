#include "core/text.h"

#include <cstdint>

namespace llada {
namespace {

constexpr std::size_t kMostBytes = 100;

void append_hex(std::string& out, const char* prefix, std::uint32_t value, int num_digits) {
  out += prefix;
  for (int digit = num_digits - 1; digit >= 0; --digit) out += "0123456789abcdef"[value >> 4 * digit & 15];
}

std::uint32_t decode(std::string_view sequence) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(sequence[i]); };
  if (sequence.size() == 1) return byte(0);
  std::uint32_t code = byte(0) & (0xffu >> (sequence.size() + 1));
  for (std::size_t i = 1; i < sequence.size(); ++i) code = code << 6 | (byte(i) & 0x3fu);
  return code;
}

bool is_shown(std::uint32_t code) {
  const auto within = [code](std::uint32_t first, std::uint32_t last) { return first <= code && code <= last; };
  return !(code < 0x20 || within(0x7f, 0x9f) || code == 0xad || code == 0x61c || within(0x200b, 0x200f) ||
           within(0x2028, 0x202e) || within(0x2060, 0x206f) || code == 0xfeff || within(0xfff9, 0xfffb) ||
           within(0xe0000, 0xe0fff));
}

}  // namespace

std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto tail = [&](std::size_t i) { return (byte(i) & 0xc0u) == 0x80u; };
  const unsigned b0 = byte(0), b1 = byte(1);
  if (b0 < 0x80u) return text.empty() ? 0 : 1;
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

std::string excerpt(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    if (out.size() >= kMostBytes) return out + "...";
    const std::size_t length = utf8_length(text.substr(at));
    const std::string_view sequence = text.substr(at, length);
    if (length == 0) {
      append_hex(out, "\\x", static_cast<unsigned char>(text[at]), 2);
      ++at;
      continue;
    }
    at += length;
    if (const std::uint32_t code = decode(sequence); is_shown(code))
      out += sequence;
    else if (code < 0x100)
      append_hex(out, "\\x", code, 2);
    else
      append_hex(out, code < 0x10000 ? "\\u" : "\\U", code, code < 0x10000 ? 4 : 8);
  }
  return out;
}

}  // namespace llada
