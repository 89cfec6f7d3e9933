// Which sources a module was made from, by hashes that CMake takes (cmake/SourceHashes.cmake).
#pragma once

namespace llada {

// The name of a capsule with a table: it holds the hash of ops/ops.h, so that modules of different builds, whose tables
// differ, don't meet.
inline constexpr char kTableName[] = "llada_rt.Ops/" LLADA_OPS_HASH;

// The hash of everything that is compiled and of how.
extern const char* const kSourcesHash;

}  // namespace llada
