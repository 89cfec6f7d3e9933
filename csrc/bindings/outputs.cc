#include "bindings/outputs.h"

#include <pybind11/stl.h>

#include <optional>
#include <vector>

namespace llada {
namespace {

// Gives an output back to the runtime that it keeps alive. On a device that waits for the running step, so whoever has
// the GIL lets go of it meanwhile.
struct GiveBack {
  std::shared_ptr<Runtime> runtime;

  void operator()(Runtime::Output* last) {
    std::optional<py::gil_scoped_release> release;
    if (dlpack::has_gil()) release.emplace();
    runtime->drop(std::move(*last));
    delete last;
    runtime.reset();  // here, because the last array of a closed runtime frees the weights
  }
};

}  // namespace

py::array_t<float> HiddenRows::logits(std::int64_t begin, std::int64_t end) const {
  check(0 <= begin && begin < end && end <= num_rows(), ErrorKind::kInvalidRequest, "expected some of ", num_rows(),
        " rows, got [", begin, ", ", end, ")");
  py::array_t<float> logits(
      {static_cast<py::ssize_t>(end - begin), static_cast<py::ssize_t>(runtime_->config().vocab_size)});
  float* out = logits.mutable_data();
  const py::gil_scoped_release release;
  runtime_->head_of(*rows_, begin, end, out);
  return logits;
}

py::array_t<float> forward(const RuntimeHandle& handle, const IntArray& tokens) {
  const std::shared_ptr<Runtime> runtime = handle.get();
  const std::vector<std::int32_t> ids = to_vector(tokens);
  py::array_t<float> logits(
      {static_cast<py::ssize_t>(ids.size()), static_cast<py::ssize_t>(runtime->config().vocab_size)});
  float* out = logits.mutable_data();
  const py::gil_scoped_release release;
  runtime->forward(ids, out);
  return logits;
}

dlpack::Array forward_in_place(const RuntimeHandle& handle, const IntArray& tokens, bool hidden) {
  const std::shared_ptr<Runtime> runtime = handle.get();
  const std::vector<std::int32_t> ids = to_vector(tokens);
  std::shared_ptr<Runtime::Output> output;
  {
    const py::gil_scoped_release release;
    output = {new Runtime::Output(runtime->forward_in_place(ids, hidden)), GiveBack{runtime}};
  }
  const bool is_bfloat16 = output->dtype == DType::kBFloat16;
  const dlpack::DataType dtype{is_bfloat16 ? dlpack::kBFloat : dlpack::kFloat,
                               static_cast<std::uint8_t>(is_bfloat16 ? 16 : 32), 1};
  const bool is_host = output->device_index < 0;
  const dlpack::Device device{is_host ? dlpack::kCpu : dlpack::kCuda, is_host ? 0 : output->device_index};
  void* const data = output->block.data();
  return {data, dtype, device, output->rows, output->cols, output};
}

py::array_t<float> logits(const RuntimeHandle& handle, std::int32_t slot, const SpanArray& spans,
                          const IntArray& positions) {
  const std::shared_ptr<Runtime> runtime = handle.get();
  const std::vector<QuerySpan> queries(spans.data(), spans.data() + spans.size());
  const std::vector<std::int32_t> wanted = to_vector(positions);
  py::array_t<float> logits(
      {static_cast<py::ssize_t>(wanted.size()), static_cast<py::ssize_t>(runtime->config().vocab_size)});
  float* out = logits.mutable_data();
  const py::gil_scoped_release release;
  runtime->logits(slot, queries, wanted, out);
  return logits;
}

HiddenRows hidden(const RuntimeHandle& handle, std::int32_t slot, const SpanArray& spans, const IntArray& positions) {
  const std::shared_ptr<Runtime> runtime = handle.get();
  const std::vector<QuerySpan> queries(spans.data(), spans.data() + spans.size());
  const std::vector<std::int32_t> wanted = to_vector(positions);
  std::unique_ptr<Runtime::Output> made;
  {
    const py::gil_scoped_release release;
    made = std::make_unique<Runtime::Output>(runtime->hidden(slot, queries, wanted));
  }
  std::shared_ptr<Runtime::Output> rows{made.release(), [runtime](Runtime::Output* last) {
                                          const py::gil_scoped_release release;  // a step may be under way
                                          runtime->drop(std::move(*last));
                                          delete last;
                                        }};
  return {runtime, std::move(rows)};
}

void bind_outputs(py::module_& module) {
  // All work on the array is done when it is handed out, so the consumer's stream has nothing to wait for.
  py::class_<dlpack::Array>(module, "Array")
      .def_property_readonly("shape", &dlpack::Array::shape)
      .def("__dlpack_device__", &dlpack::Array::device)
      .def(
          "__dlpack__",
          [](const dlpack::Array& array, const py::object&, const std::optional<std::pair<int, int>>& max_version,
             const std::optional<std::pair<int, int>>& dl_device, std::optional<bool> copy) {
            check(!copy.value_or(false), ErrorKind::kInvalidRequest, "__dlpack__: expected copy=False or None");
            const py::tuple own = array.device();
            check(!dl_device || own.equal(py::make_tuple(dl_device->first, dl_device->second)),
                  ErrorKind::kInvalidRequest, "__dlpack__: expected the device where the array is");
            return array.capsule(max_version && max_version->first >= 1);
          },
          py::kw_only(), py::arg("stream") = py::none(), py::arg("max_version") = std::nullopt,
          py::arg("dl_device") = std::nullopt, py::arg("copy") = std::nullopt);
  py::class_<HiddenRows>(module, "HiddenRows")
      .def("__len__", &HiddenRows::num_rows)
      .def("logits", &HiddenRows::logits, py::arg("begin"), py::arg("end"));
}

}  // namespace llada
