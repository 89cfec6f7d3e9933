// How an extension module offers its table to another one: as a capsule named kOfferName that points to a TableOffer.
// The two modules may come from different builds, so the offer says by which page of ops its table was made.
#pragma once

#include <cstdint>
#include <string>

#include "core/check.h"
#include "ops/ops.h"

namespace llada {

inline constexpr char kOfferName[] = "llada_rt.Ops";

// The number changes where TableOffer or the meaning of a call changes.
inline constexpr std::int64_t kAbiVersion = 1;

// The beginning of every version: what is read before anything else is known.
struct TableOffer {
  std::int64_t abi_version;
  std::int64_t ops_bytes;  // sizeof(Ops)
  const char* ops_hash;    // of the headers that both modules must share (cmake/SourceHashes.cmake)
  const Ops* table;
};

// LLADA_OPS_HASH is defined for the modules that offer or take up a table: only these include this file.
inline TableOffer offer(const Ops& table) {
  return {kAbiVersion, static_cast<std::int64_t>(sizeof(Ops)), LLADA_OPS_HASH, &table};
}

// The table of an offer that was made by the page of ops that this module has; else DeviceError.
inline const Ops& accepted(const TableOffer& offer) {
  const auto agree = [](const char* what, const auto& expected, const auto& got) {
    check(expected == got, ErrorKind::kDevice, "a table of ops: expected ", what, " ", expected, ", got ", got,
          "; the two compiled modules come of different builds: build the package again");
  };
  agree("ABI version", kAbiVersion, offer.abi_version);
  agree("sizeof(Ops)", static_cast<std::int64_t>(sizeof(Ops)), offer.ops_bytes);
  agree("headers with the hash", std::string(LLADA_OPS_HASH), std::string(offer.ops_hash));
  return *offer.table;
}
}  // namespace llada
