// Which sources a module was made from, by hashes that CMake takes (cmake/SourceHashes.cmake).
#pragma once

namespace llada {

// The hash of everything that is compiled and of how.
extern const char* const kSourcesHash;

}  // namespace llada
