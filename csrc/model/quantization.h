// Quantised weights: what the compute types are made of, and the rule that turns a matrix into integers. Files hold the
// result in the same form (`<name>` and `<name>.scales`), so a folder that was converted beforehand and a folder that
// is quantised at load give the same bits.
//
// The rule, in float32 (a stored weight is widened exactly first; the division is one, not a product with an inverse):
//   int8, row by row             scale = max |row| / 127,  q = round(w / scale) in [-127, 127]
//   int4, 32 columns of a row    scale = max |group| / 7,  q = round(w / scale) in [-7, 7]; the last group may be
//   shorter
//   float8, row by row           scale = max |row| / 448, q = e4m3 nearest to w / scale; never in a file
// Ties go to the even integer; a scale of 0 becomes 1. Layouts, row-major:
//   int8  q as signed bytes (out, in); scales (out)
//   int4  q + 8, two in a byte, the even column in the low half, 8 behind an odd end: (out, in / 2 rounded up);
//         scales (out, in / 32 rounded up)
// In a file q is I8 or U8 and the scales are F32. All matrices are quantised but the embedding; that and the norms are
// bfloat16 then.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "model/config.h"
#include "ops/ops.h"

namespace llada {

// How a model computes: see the page in ops/ops.h.
struct ComputeType {
  const char* name;
  DType rows;     // T: embedding, K and V, and the rows of attention
  DType operand;  // rows that meet a weight
  DType weight;
};

// All there are; a table runs those whose operands it multiplies.
std::span<const ComputeType> compute_types();

// What a weight takes where there are many of them, its share of a group's scale included.
double bits_per_weight(const ComputeType& type);

// Those that a folder and a table can run in: `stored` is the folder's quantised type ("" for none).
std::vector<const ComputeType*> runnable_types(const std::string& stored, const Ops& ops);

// The compute type of that name, or of "auto" the one of the folder. Throws ConfigError with the list of runnable
// types: `checkpoint` is the type of the folder's embedding.
const ComputeType& find_compute_type(const std::string& name, const std::string& stored, DType checkpoint,
                                     const Ops& ops);

std::int64_t num_scale_groups(DType dtype, std::int64_t cols);  // of a row: 1 but for int4

// from: (rows, cols), float32, bfloat16 or float16, at any alignment; values: rows of bytes_of(dtype, cols), scales:
// (rows, num_scale_groups). False if a value is not finite.
bool quantize_weight(Stream stream, ConstTensor from, DType dtype, char* values, float* scales);

// False if values or scales are none that the rule can give: int8 -128, int4 -8, a float8 that is no number, a scale
// that is not a positive number.
bool is_quantized_weight(Stream stream, const StoredWeight& weight);

}  // namespace llada
