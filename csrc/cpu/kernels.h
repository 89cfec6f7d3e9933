// The functions of one CPU table, with the types that ops/ops.h gives them. Included with LLADA_TABLE defined.
#pragma once

#include <type_traits>

#include "ops/ops.h"

namespace llada::cpu::LLADA_TABLE {

std::remove_pointer_t<decltype(Ops::packed_bytes)> packed_bytes;
std::remove_pointer_t<decltype(Ops::pack)> pack;
std::remove_pointer_t<decltype(Ops::embed)> embed;
std::remove_pointer_t<decltype(Ops::rms_norm)> rms_norm;
std::remove_pointer_t<decltype(Ops::quantize)> quantize;
std::remove_pointer_t<decltype(Ops::matmul)> matmul;
std::remove_pointer_t<decltype(Ops::matmul_swiglu)> matmul_swiglu;
std::remove_pointer_t<decltype(Ops::rope)> rope;
std::remove_pointer_t<decltype(Ops::rope_kv_write)> rope_kv_write;
std::remove_pointer_t<decltype(Ops::attention)> attention;
std::remove_pointer_t<decltype(Ops::candidates)> candidates;
std::remove_pointer_t<decltype(Ops::measure_peak)> measure_peak;

}  // namespace llada::cpu::LLADA_TABLE
