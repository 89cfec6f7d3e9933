// Logits and hidden states as they leave a runtime: copied into arrays of numpy, kept on the device, or lent in place.
#pragma once

#include <memory>
#include <utility>

#include "bindings/convert.h"
#include "bindings/dlpack.h"
#include "bindings/runtime_handle.h"

namespace llada {

using SpanArray = py::array_t<QuerySpan, py::array::c_style>;

// Hidden states of some positions, which their logits are read from a few rows at a time.
class HiddenRows {
 public:
  HiddenRows(std::shared_ptr<Runtime> runtime, std::shared_ptr<Runtime::Output> rows)
      : runtime_(std::move(runtime)), rows_(std::move(rows)) {}

  std::int64_t num_rows() const { return rows_->rows; }
  py::array_t<float> logits(std::int64_t begin, std::int64_t end) const;

 private:
  std::shared_ptr<Runtime> runtime_;
  std::shared_ptr<Runtime::Output> rows_;
};

py::array_t<float> forward(const RuntimeHandle& handle, const IntArray& tokens);
// Its memory goes back when nobody has the array any more.
dlpack::Array forward_in_place(const RuntimeHandle& handle, const IntArray& tokens, bool hidden);
py::array_t<float> logits(const RuntimeHandle& handle, std::int32_t slot, const SpanArray& spans,
                          const IntArray& positions);
// By value: should pybind11 run out of memory while it makes the object, it would free what a pointer owns twice.
HiddenRows hidden(const RuntimeHandle& handle, std::int32_t slot, const SpanArray& spans, const IntArray& positions);

}  // namespace llada
