// Text that came from a file or a caller, as messages may show it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace llada {

// Length of the well-formed UTF-8 sequence at the front of `text` (RFC 3629: no overlong forms, no surrogates), or 0.
std::size_t utf8_length(std::string_view text);

// The first hundred bytes or so of a text, with "..." for the rest. What a terminal would obey or hide (control
// characters, marks of writing direction, bytes that are not UTF-8) is written as \xNN or \uNNNN.
std::string excerpt(std::string_view text);

}  // namespace llada
