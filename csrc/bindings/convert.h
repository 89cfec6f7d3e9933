// Between numpy arrays and the plain vectors and tensors of the engine.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <vector>

#include "core/check.h"
#include "core/tensor.h"
#include "ops/trace.h"

namespace llada {

namespace py = pybind11;

using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;
using IntArray = py::array_t<std::int32_t, py::array::c_style | py::array::forcecast>;

using WordArray = py::array_t<std::uint32_t, py::array::c_style | py::array::forcecast>;

inline std::vector<std::int32_t> to_vector(const IntArray& array) {
  check(array.ndim() == 1, ErrorKind::kInvalidRequest, "expected an array of one dimension, got ", array.ndim());
  return {array.data(), array.data() + array.size()};
}

template <class T>
py::array_t<T> to_array(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

// op -> (calls, wall nanoseconds, CPU nanoseconds)
inline py::dict trace_dict(const std::vector<Trace::Entry>& entries) {
  py::dict spent;
  for (const Trace::Entry& entry : entries)
    spent[entry.name] = py::make_tuple(entry.calls, entry.time.wall_ns, entry.time.cpu_ns);
  return spent;
}

void bind_model(py::module_& module);
void bind_outputs(py::module_& module);
void bind_runtime(py::module_& module);
void bind_ops(py::module_& module);

}  // namespace llada
