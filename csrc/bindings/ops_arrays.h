// Arrays for single ops: values in the compute type, and a slot of one layer that can be written and read back.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "bindings/convert.h"
#include "ops/ops.h"

namespace llada {

inline DType parse_dtype(const std::string& name) {
  check(name == "float32" || name == "bfloat16", ErrorKind::kConfig, "expected dtype float32 or bfloat16, got \"", name,
        "\"");
  return name == "float32" ? DType::kFloat32 : DType::kBFloat16;
}

// Owned values in T, (rows, cols).
struct Rounded {
  Buffer memory;
  Tensor tensor;
};

inline Rounded allot(std::int64_t rows, std::int64_t cols, DType dtype) {
  Rounded out;
  out.memory = Buffer(rows * cols * size_of(dtype), /*zero=*/true);
  out.tensor = {out.memory.data(), dtype, rows, cols};
  return out;
}

inline Rounded rounded(const float* values, std::int64_t rows, std::int64_t cols, DType dtype) {
  Rounded out = allot(rows, cols, dtype);
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    if (dtype == DType::kFloat32)
      static_cast<float*>(out.tensor.data)[i] = values[i];
    else
      static_cast<std::uint16_t*>(out.tensor.data)[i] = float_to_bf16(values[i]);
  }
  return out;
}

inline float element(const void* data, DType dtype, std::int64_t index) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(data)[index];
  return bf16_to_float(static_cast<const std::uint16_t*>(data)[index]);
}

inline void widen(const Tensor& from, float* out) {
  for (std::int64_t i = 0; i < from.rows * from.cols; ++i) out[i] = element(from.data, from.dtype, i);
}

// (rows, everything else): the 2-D view that the page of ops has.
struct View {
  const float* data;
  std::int64_t rows;
  std::int64_t cols;
};
inline View view(const FloatArray& array, int ndim, const char* name) {
  check(array.ndim() == ndim, ErrorKind::kInvalidRequest, name, ": expected ", ndim, " dimensions, got ", array.ndim());
  std::int64_t cols = 1;
  for (int i = 1; i < ndim; ++i) cols *= array.shape(i);
  return {array.data(), array.shape(0), cols};
}

// A slot for one layer, with head-major K and V as KvView describes.
struct TestSlot {
  Buffer memory;
  KvView kv;
  HeadShape shape;
  DType dtype;

  TestSlot(std::int64_t length, HeadShape shape_in, DType dtype_in) : shape(shape_in), dtype(dtype_in) {
    kv.capacity = std::max<std::int64_t>(64, (length + 63) / 64 * 64);
    const std::int64_t k_bytes = shape.num_kv_heads * kv.capacity * shape.head_dim * size_of(dtype);
    const std::int64_t v_bytes = shape.num_kv_heads * kv.capacity * v_stride() * size_of(dtype);
    memory = Buffer(k_bytes + v_bytes, /*zero=*/true);
    kv.k = memory.data();
    kv.v = memory.data() + k_bytes;
  }
  std::int64_t v_stride() const { return (shape.head_dim + 15) / 16 * 16; }

  // Back to (length, num_kv_heads, head_dim).
  void unpack(std::int64_t length, float* k_out, float* v_out) const {
    const std::int64_t pack = dtype == DType::kFloat32 ? 1 : 2;
    for (std::int64_t p = 0; p < length; ++p)
      for (std::int64_t h = 0; h < shape.num_kv_heads; ++h)
        for (std::int64_t d = 0; d < shape.head_dim; ++d) {
          const std::int64_t out = (p * shape.num_kv_heads + h) * shape.head_dim + d;
          const std::int64_t k_index = h * kv.capacity * shape.head_dim + p / 16 * 16 * shape.head_dim +
                                       d / pack * 16 * pack + p % 16 * pack + d % pack;
          const std::int64_t v_index =
              h * kv.capacity * v_stride() + p / pack * pack * v_stride() + d * pack + p % pack;
          k_out[out] = element(kv.k, dtype, k_index);
          v_out[out] = element(kv.v, dtype, v_index);
        }
  }
};

// Angles that rotate nothing: cos 1, sin 0.
inline Rounded no_rotation(std::int64_t num_positions, std::int64_t head_dim) {
  Rounded table = allot(num_positions, head_dim, DType::kFloat32);
  for (std::int64_t i = 0; i < num_positions * head_dim; ++i)
    static_cast<float*>(table.tensor.data)[i] = i % head_dim < head_dim / 2 ? 1.0f : 0.0f;
  return table;
}

}  // namespace llada
