// The ops that read and write K and V, on a slot of one layer that is made for the call.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "bindings/ops_arrays.h"

namespace llada {

// Queries rotated, and K and V as the slot has them then: (n, heads, head_dim) each. places: where in the slot the rows
// go, if not at their positions.
py::tuple rope_kv_write(const Place& place, const FloatArray& q, const FloatArray& k, const FloatArray& v,
                        const IntArray& positions, std::int64_t length, double theta, const std::string& dtype_name,
                        const std::optional<IntArray>& places);

// spans: (row_begin, row_end, visible, sequence); out_dtype: of the result, if it is not dtype
FloatArray ragged_attention(const Place& place, const FloatArray& q, const std::vector<FloatArray>& ks,
                            const std::vector<FloatArray>& vs, const IntArray& spans, const std::string& dtype_name,
                            const std::optional<std::string>& out_dtype);

// The same for one sequence: spans have no last column.
FloatArray attention(const Place& place, const FloatArray& q, const FloatArray& k, const FloatArray& v,
                     const IntArray& spans, const std::string& dtype, const std::optional<std::string>& out_dtype);

}  // namespace llada
