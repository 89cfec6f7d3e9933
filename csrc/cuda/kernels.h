// The ops of the CUDA table, with the types that ops/ops.h gives them. One file each, matmul and attention a folder;
// <op>.cuh holds the kernels of an op, which the host imitation runs too.
#pragma once

#include <type_traits>

#include "ops/ops.h"

namespace llada::cuda {

// Weights on the device are rows of outputs, in the order of the checkpoint, each row padded with zeros to a multiple
// of 16 bytes; `paired` ones alternate: 8 rows of the first matrix, 8 of the second, both padded to whole eights.
//   float32, bfloat16  values
//   int8, float8       bytes (int8 signed), then all scales, float32
//   int4               two values in a byte, each plus 8, the even column in the low half; then the scales of each row,
//                      float32, one for 32 columns, a multiple of 4 of them
std::remove_pointer_t<decltype(Ops::packed_bytes)> packed_bytes;
std::remove_pointer_t<decltype(Ops::pack)> pack;
std::remove_pointer_t<decltype(Ops::packed_row_bytes)> packed_row_bytes;

std::remove_pointer_t<decltype(Ops::multiplies)> multiplies;
std::remove_pointer_t<decltype(Ops::embed)> embed;
std::remove_pointer_t<decltype(Ops::rms_norm)> rms_norm;
std::remove_pointer_t<decltype(Ops::keep_rows)> keep_rows;
std::remove_pointer_t<decltype(Ops::quantize)> quantize;
std::remove_pointer_t<decltype(Ops::matmul)> matmul;
std::remove_pointer_t<decltype(Ops::matmul_swiglu)> matmul_swiglu;
std::remove_pointer_t<decltype(Ops::rope)> rope;
std::remove_pointer_t<decltype(Ops::rope_kv_write)> rope_kv_write;
std::remove_pointer_t<decltype(Ops::rope_kvq)> rope_kvq;
std::remove_pointer_t<decltype(Ops::attention)> attention;
std::remove_pointer_t<decltype(Ops::candidates)> candidates;
std::remove_pointer_t<decltype(Ops::commit)> commit;
std::remove_pointer_t<decltype(Ops::finish)> finish;
std::remove_pointer_t<decltype(Ops::measure_peak)> measure_peak;

}  // namespace llada::cuda
