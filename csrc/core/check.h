// Errors that cross the border to Python: a kind (the name of a Python class) and a message that says what was
// expected and what came. Broken invariants throw InternalError; nothing here ends the process.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace llada {

enum class ErrorKind {
  kConfig,
  kModelNotFound,
  kModelFormat,
  kUnsupportedModel,
  kInvalidRequest,
  kContextLength,
  kOutOfMemory,
  kDevice,
  kInternal,
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

// fail(ErrorKind::kModelFormat, "tensor ", name, ": expected ", a, ", got ", b);
template <class... Parts>
[[noreturn]] void fail(ErrorKind kind, const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw Error(kind, text.str());
}

template <class... Parts>
void check(bool ok, ErrorKind kind, const Parts&... parts) {
  if (!ok) fail(kind, parts...);
}

}  // namespace llada
