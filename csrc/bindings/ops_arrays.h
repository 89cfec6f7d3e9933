// Arrays for single ops: values in the compute type, where the op runs.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "bindings/convert.h"
#include "model/quantization.h"
#include "ops/memory.h"

namespace llada {

inline DType parse_dtype(const std::string& name) {
  check(name == "float32" || name == "bfloat16", ErrorKind::kConfig, "expected dtype float32 or bfloat16, got \"", name,
        "\"");
  return name == "float32" ? DType::kFloat32 : DType::kBFloat16;
}

// Where an op runs, and the table it is of.
struct Place {
  const Ops& ops;
  const Memory& memory;
  Stream stream;
};

// What multiplies what, by the name of a compute type.
inline const ComputeType& parse_compute_type(const std::string& name, const Ops& ops) {
  check(name != "auto", ErrorKind::kConfig, "expected the name of a compute type, got \"auto\"");
  return find_compute_type(name, "", DType::kFloat32, ops);
}

// Owned values in T, (rows, cols).
struct Rounded {
  Buffer memory;
  Tensor tensor;
};

inline Rounded allot(std::int64_t rows, std::int64_t cols, DType dtype) {
  Rounded out;
  out.memory = Buffer(rows * row_bytes(dtype, cols), /*zero=*/true);
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

// An array of the process where the table computes: itself, or a copy on the device.
class Placed {
 public:
  Placed(const Memory& memory, const Tensor& host) : memory_(memory), host_(host), tensor(host) {
    if (memory.is_host()) return;
    block_ = Block(memory, num_bytes());
    memory.upload(host.data, num_bytes(), block_.data());
    tensor.data = block_.data();
  }

  // Back to the array, when all is done.
  void fetch(const Place& place) const {
    place.ops.finish(place.stream);
    if (!memory_.is_host()) memory_.download(tensor.data, num_bytes(), host_.data);
  }

 private:
  std::int64_t num_bytes() const { return host_.rows * row_bytes(host_.dtype, host_.cols); }

  const Memory& memory_;
  Block block_;
  const Tensor host_;

 public:
  Tensor tensor;
};

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

// A weight by the rule of model/quantization.h.
struct Quantized {
  Quantized(Stream stream, ConstTensor weight, DType dtype)
      : form(nullptr, dtype, weight.rows, weight.cols),
        values(weight.rows * bytes_of(dtype, weight.cols)),
        scales(weight.rows * num_scale_groups(dtype, weight.cols) * 4) {
    check(quantize_weight(stream, weight, dtype, values.data(), reinterpret_cast<float*>(scales.data())),
          ErrorKind::kInvalidRequest, "expected finite weights");
  }
  StoredWeight stored() const { return {{values.data(), form.dtype, form.rows, form.cols}, scales.data()}; }

  const ConstTensor form;
  const Buffer values;
  const Buffer scales;
};

struct Packed {
  Block memory;
  PackedWeight weight;
};

// A weight that is not finite is refused by the loader; as floats it may be what the test wants to see.
inline Packed pack(const Place& place, const View& w, const ComputeType& type, bool paired = false) {
  const auto& [ops, memory, stream] = place;
  Packed packed;
  packed.weight = {nullptr, type.weight, w.rows, w.cols, paired};
  packed.memory = Block(memory, ops.packed_bytes(packed.weight));
  packed.weight.data = packed.memory.data();
  const ConstTensor whole{w.data, DType::kFloat32, w.rows, w.cols};
  if (is_float(type.weight))
    ops.pack(stream, {whole, nullptr}, packed.weight, packed.memory.data());
  else
    ops.pack(stream, Quantized(stream, whole, type.weight).stored(), packed.weight, packed.memory.data());
  return packed;
}

// Rows as they meet a weight. An odd number of bfloat16 values would end inside a pack: the engine's widths are even,
// so they are padded here.
inline Rounded operands(const Place& place, const float* values, std::int64_t rows, std::int64_t cols,
                        const ComputeType& type) {
  if (!is_float(type.operand)) {
    Rounded out = allot(rows, cols, type.operand);
    const Placed in(place.memory, {const_cast<float*>(values), DType::kFloat32, rows, cols});
    const Placed quantized(place.memory, out.tensor);
    place.ops.quantize(place.stream, in.tensor, quantized.tensor);
    quantized.fetch(place);
    return out;
  }
  const std::int64_t whole = type.operand == DType::kBFloat16 ? (cols + 1) / 2 * 2 : cols;
  std::vector<float> padded(static_cast<std::size_t>(rows * whole));
  for (std::int64_t r = 0; r < rows; ++r) std::copy_n(values + r * cols, cols, padded.data() + r * whole);
  return rounded(padded.data(), rows, whole, type.operand);
}

// (values, scales) of int8 or float8 rows: (rows, cols) of what the bytes stand for, and (rows) float32.
inline py::tuple quantized_rows(const Tensor& rows) {
  py::array_t<float> values({rows.rows, rows.cols});
  py::array_t<float> scales(rows.rows);
  const std::int64_t step = row_bytes(rows.dtype, rows.cols);
  for (std::int64_t r = 0; r < rows.rows; ++r) {
    const unsigned char* row = static_cast<const unsigned char*>(rows.data) + r * step;
    for (std::int64_t i = 0; i < rows.cols; ++i)
      *values.mutable_data(r, i) =
          rows.dtype == DType::kInt8 ? static_cast<float>(row[i] - 128) : float8_to_float(row[i]);
    std::memcpy(scales.mutable_data(r), row + step - 4, 4);
  }
  if (rows.dtype == DType::kInt8) return py::make_tuple(values.attr("astype")("int8"), scales);
  return py::make_tuple(values, scales);
}

// An array of numpy as a tensor; what an op only reads is not written.
inline Tensor whole(const FloatArray& array, std::int64_t rows, std::int64_t cols) {
  return {const_cast<float*>(array.data()), DType::kFloat32, rows, cols};
}

inline FloatArray result(const Tensor& tensor, const std::vector<py::ssize_t>& shape) {
  FloatArray out(shape);
  widen(tensor, out.mutable_data());
  return out;
}

}  // namespace llada
