// _core.Runtime: a loaded model, its slots and the denoising loop. The GIL is released while the engine works.
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/convert.h"
#include "bindings/dlpack.h"
#include "denoise/runtime.h"
#include "model/tensor_records.h"

namespace llada {
namespace {

// close() drops the model at once; later calls say so instead of touching freed memory. A call in flight keeps it
// alive.
class RuntimeHandle {
 public:
  explicit RuntimeHandle(std::shared_ptr<Runtime> runtime) : runtime_(std::move(runtime)) {}

  std::shared_ptr<Runtime> get() const {
    check(runtime_ != nullptr, ErrorKind::kInvalidRequest, "expected an open runtime, this one is closed");
    return runtime_;
  }
  void close() {
    std::shared_ptr<Runtime> last = std::exchange(runtime_, nullptr);
    const py::gil_scoped_release release;
    last.reset();
  }

 private:
  std::shared_ptr<Runtime> runtime_;  // guarded by the GIL
};

py::object optional_id(std::int64_t id) { return id < 0 ? py::object(py::none()) : py::object(py::int_(id)); }

// The weights as they lie in memory: (vector, table, matrix or paired, how many, outputs, inputs) of each shape.
py::list weight_shapes(const ModelConfig& config) {
  constexpr const char* kForms[] = {"vector", "table", "matrix"};
  std::vector<std::tuple<std::string, std::int64_t, std::int64_t>> shapes;
  std::vector<std::int64_t> counts;
  for (const WeightGroup& group : weight_groups(config)) {
    const char* form = group.is_paired() ? "paired" : kForms[static_cast<int>(group.first().kind)];
    const std::tuple shape(std::string(form), group.num_out(), group.num_in());
    const auto found = std::find(shapes.begin(), shapes.end(), shape);
    const auto index = static_cast<std::size_t>(found - shapes.begin());
    if (found == shapes.end()) {
      shapes.push_back(shape);
      counts.push_back(0);
    }
    ++counts[index];
  }
  py::list all;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const auto& [form, num_out, num_in] = shapes[i];
    all.append(py::make_tuple(form, counts[i], num_out, num_in));
  }
  return all;
}

py::dict config_dict(const ModelConfig& c) {
  const LayerConfig& first = c.layer(0);
  std::int64_t mlp_hidden_size = 0;
  for (const LayerConfig& layer : c.layers) mlp_hidden_size = std::max(mlp_hidden_size, layer.mlp_hidden_size);
  py::dict d;
  d["d_model"] = c.d_model;
  d["num_layers"] = c.num_layers();
  d["num_heads"] = c.num_heads;
  d["num_kv_heads"] = c.num_kv_heads;
  d["head_dim"] = first.head_dim;          // layers share it, see model/supported.cc
  d["mlp_hidden_size"] = mlp_hidden_size;  // the largest
  d["vocab_size"] = c.vocab_size;
  d["max_sequence_length"] = c.max_sequence_length;
  d["rope_theta"] = c.rope_theta;
  d["rms_norm_eps"] = c.rms_norm_eps;
  d["weight_tying"] = c.tied_head;
  d["mask_token_id"] = optional_id(c.mask_token_id);
  d["eos_token_id"] = optional_id(c.eos_token_id);
  d["pad_token_id"] = optional_id(c.pad_token_id);
  d["unknown_keys"] = c.unknown_keys;
  d["weights"] = weight_shapes(c);
  return d;
}

py::dict config_dict(const Runtime& runtime) {
  py::dict d = config_dict(runtime.config());
  d["checkpoint_dtype"] = name_of(runtime.weights().checkpoint_dtype);
  return d;
}

// What config.json says of a folder, without its weights: the model's shape and the tensors that it must hold, each as
// (name, layer or -1, shape).
py::tuple describe_model(const std::string& path) {
  const ModelConfig config = load_config(path);
  py::list tensors;
  for (const TensorRecord& record : tensor_records(config)) {
    if (record.is_tied) continue;
    py::list shape;
    if (record.kind != WeightKind::kVector) shape.append(record.rows);
    shape.append(record.cols);
    tensors.append(py::make_tuple(record.stored_names.front(), record.layer, py::tuple(shape)));
  }
  return py::make_tuple(config_dict(config), tensors);
}

py::dict trace(const RuntimeHandle& handle) {
  const std::shared_ptr<Runtime> runtime = handle.get();
  std::vector<Trace::Entry> entries;
  {
    const py::gil_scoped_release release;
    entries = runtime->trace();
  }
  return trace_dict(entries);
}

py::tuple denoise(const RuntimeHandle& handle, const py::array_t<SequencePlan, py::array::c_style>& sequences,
                  const py::array_t<QuerySpan, py::array::c_style>& spans, std::int32_t max_steps,
                  const std::optional<IntArray>& targets, double max_seconds, bool alternatives) {
  const std::shared_ptr<Runtime> runtime = handle.get();
  StepPlan plan;
  plan.sequences = sequences.data();
  plan.num_sequences = sequences.size();
  plan.spans = spans.data();
  plan.num_spans = spans.size();
  plan.max_steps = max_steps;
  plan.max_seconds = max_seconds;
  if (targets) {
    plan.targets = targets->data();
    plan.num_targets = targets->size();
  }
  StepResult result;
  {
    const py::gil_scoped_release release;
    result = runtime->denoise(plan);
  }
  if (alternatives)
    return py::make_tuple(to_array(result.outcomes), to_array(result.commits), to_array(result.log_probs),
                          to_array(result.alternatives));
  if (!targets) return py::make_tuple(to_array(result.outcomes), to_array(result.commits));
  return py::make_tuple(to_array(result.outcomes), to_array(result.commits), to_array(result.log_probs));
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

// The memory of the array goes back when nobody has the array any more.
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

py::array_t<float> logits(const RuntimeHandle& handle, std::int32_t slot,
                          const py::array_t<QuerySpan, py::array::c_style>& spans, const IntArray& positions) {
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

// Hidden states of some positions, which their logits are read from a few rows at a time.
class HiddenRows {
 public:
  HiddenRows(std::shared_ptr<Runtime> runtime, std::shared_ptr<Runtime::Output> rows)
      : runtime_(std::move(runtime)), rows_(std::move(rows)) {}

  std::int64_t num_rows() const { return rows_->rows; }

  py::array_t<float> logits(std::int64_t begin, std::int64_t end) const {
    check(0 <= begin && begin < end && end <= num_rows(), ErrorKind::kInvalidRequest, "expected some of ", num_rows(),
          " rows, got [", begin, ", ", end, ")");
    py::array_t<float> logits(
        {static_cast<py::ssize_t>(end - begin), static_cast<py::ssize_t>(runtime_->config().vocab_size)});
    float* out = logits.mutable_data();
    const py::gil_scoped_release release;
    runtime_->head_of(*rows_, begin, end, out);
    return logits;
  }

 private:
  std::shared_ptr<Runtime> runtime_;
  std::shared_ptr<Runtime::Output> rows_;
};

// By value: should pybind11 run out of memory while it makes the object, it would free what a pointer owns twice.
HiddenRows hidden(const RuntimeHandle& handle, std::int32_t slot,
                  const py::array_t<QuerySpan, py::array::c_style>& spans, const IntArray& positions) {
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

// What a model would take in memory: (compute type, bytes of weights, of workspace, of the smallest K/V).
py::tuple memory_needs(const std::string& path, const std::string& compute_type, const std::string& table,
                       int num_threads, std::int64_t num_rows) {
  MemoryNeeds needs;
  {
    const py::gil_scoped_release release;
    needs = Runtime::needs(path, {compute_type, table, num_threads}, num_rows);
  }
  return py::make_tuple(needs.compute_type->name, needs.weights, needs.workspace, needs.least_kv);
}

template <std::size_t kCount>
py::tuple names_of(const char* const (&names)[kCount]) {
  py::tuple told(kCount);
  for (std::size_t i = 0; i < kCount; ++i) told[i] = names[i];
  return told;
}

}  // namespace

void bind_runtime(py::module_& module) {
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
  PYBIND11_NUMPY_DTYPE(QuerySpan, start, stop, visible);
  PYBIND11_NUMPY_DTYPE(SelectRule, kind, num_masked, num_steps, next_step, value);
  PYBIND11_NUMPY_DTYPE(SamplingRule, mask_id, score, temperature, guidance_scale, seed, suppressed_token,
                       unconfident_tokens, propose_mask, num_alternatives, step);
  PYBIND11_NUMPY_DTYPE(SequencePlan, slot, guide_slot, first_begin, first_end, next_begin, next_end, block_start,
                       block_stop, commit_start, step, compact, targets_begin, targets_end, select, sampling);
  PYBIND11_NUMPY_DTYPE(SequenceOutcome, num_query_rows, num_refreshes, num_steps, num_masked, block_done, bad_position);
  PYBIND11_NUMPY_DTYPE(CommitRecord, sequence, step, position, token, confidence, log_prob);
  PYBIND11_NUMPY_DTYPE(Alternative, token, log_prob);
  module.attr("SEQUENCE_DTYPE") = py::dtype::of<SequencePlan>();
  module.attr("SELECT_KINDS") = names_of(kSelectNames);
  module.attr("SCORES") = names_of(kScoreNames);
  py::list types;
  for (const ComputeType& type : compute_types()) types.append(type.name);
  module.attr("COMPUTE_TYPES") = py::tuple(types);
  module.attr("SPAN_DTYPE") = py::dtype::of<QuerySpan>();
  module.attr("OUTCOME_DTYPE") = py::dtype::of<SequenceOutcome>();
  module.attr("COMMIT_DTYPE") = py::dtype::of<CommitRecord>();

  py::class_<RuntimeHandle>(module, "Runtime")
      .def(py::init([](const std::string& path, const std::string& compute_type, const std::string& table,
                       int num_threads, int device_index, std::uintptr_t stream) {
             const py::gil_scoped_release release;
             const RuntimeOptions options{compute_type, table, num_threads, device_index,
                                          reinterpret_cast<void*>(stream)};
             return std::make_unique<RuntimeHandle>(std::make_shared<Runtime>(path, options));
           }),
           py::arg("path"), py::arg("compute_type") = "auto", py::arg("table") = "", py::arg("num_threads") = 0,
           py::arg("device_index") = 0, py::arg("stream") = 0)
      .def_property_readonly("config", [](const RuntimeHandle& h) { return config_dict(*h.get()); })
      .def_property_readonly("compute_type", [](const RuntimeHandle& h) { return h.get()->weights().type.name; })
      .def_property_readonly("table", [](const RuntimeHandle& h) { return h.get()->ops().name; })
      .def_property_readonly("num_threads", [](const RuntimeHandle& h) { return h.get()->num_threads(); })
      .def_property_readonly("num_parameters", [](const RuntimeHandle& h) { return num_parameters(h.get()->config()); })
      .def_property_readonly("weight_bytes", [](const RuntimeHandle& h) { return h.get()->weights().num_bytes; })
      .def_property_readonly("kv_bytes_per_token", [](const RuntimeHandle& h) { return h.get()->kv_bytes_per_token(); })
      .def(
          "kv_slot_bytes", [](const RuntimeHandle& h, std::int64_t length) { return h.get()->kv_slot_bytes(length); },
          py::arg("length"))
      .def(
          "workspace_bytes",
          [](const RuntimeHandle& h, std::int64_t num_rows) { return h.get()->workspace_bytes(num_rows); },
          py::arg("num_rows"))
      .def(
          "reserve_kv",
          [](const RuntimeHandle& h, std::int64_t num_bytes) {
            const auto runtime = h.get();
            const py::gil_scoped_release release;
            runtime->reserve_kv(num_bytes);
          },
          py::arg("num_bytes"))
      .def_property_readonly("kv_used_bytes",
                             [](const RuntimeHandle& h) {
                               const auto runtime = h.get();
                               const py::gil_scoped_release release;
                               return runtime->kv_used_bytes();
                             })
      .def_property_readonly("free_device_bytes",
                             [](const RuntimeHandle& h) {
                               const auto runtime = h.get();
                               const py::gil_scoped_release release;
                               return runtime->free_device_bytes();
                             })
      .def_property_readonly("device_counts",
                             [](const RuntimeHandle& h) {
                               const auto runtime = h.get();
                               DeviceCounts counts;
                               {
                                 const py::gil_scoped_release release;
                                 counts = runtime->device_counts();
                               }
                               py::dict d;
                               d["finishes"] = counts.finishes;
                               d["captures"] = counts.captures;
                               d["replays"] = counts.replays;
                               return d;
                             })
      .def_property_readonly("num_open_slots",
                             [](const RuntimeHandle& h) {
                               const auto runtime = h.get();
                               const py::gil_scoped_release release;
                               return runtime->num_open_slots();
                             })
      .def(
          "open_slot",
          [](const RuntimeHandle& h, const IntArray& tokens) {
            const auto runtime = h.get();
            std::vector<std::int32_t> canvas = to_vector(tokens);
            const py::gil_scoped_release release;
            return runtime->open_slot(std::move(canvas));
          },
          py::arg("tokens"))
      .def(
          "write_slot",
          [](const RuntimeHandle& h, std::int32_t slot, const IntArray& tokens) {
            const auto runtime = h.get();
            std::vector<std::int32_t> canvas = to_vector(tokens);
            const py::gil_scoped_release release;
            runtime->write_slot(slot, std::move(canvas));
          },
          py::arg("slot"), py::arg("tokens"))
      .def(
          "close_slot",
          [](const RuntimeHandle& h, std::int32_t slot) {
            const auto runtime = h.get();
            const py::gil_scoped_release release;
            runtime->close_slot(slot);
          },
          py::arg("slot"))
      .def(
          "canvas",
          [](const RuntimeHandle& h, std::int32_t slot) {
            const auto runtime = h.get();
            std::vector<std::int32_t> canvas;
            {
              const py::gil_scoped_release release;
              canvas = runtime->canvas(slot);
            }
            return to_array(canvas);
          },
          py::arg("slot"))
      .def("denoise", denoise, py::arg("sequences"), py::arg("spans"), py::arg("max_steps"),
           py::arg("targets") = std::nullopt, py::arg("max_seconds") = 0.0, py::arg("alternatives") = false)
      .def("forward", forward, py::arg("tokens"))
      .def("forward_in_place", forward_in_place, py::arg("tokens"), py::arg("hidden"))
      .def("hidden", hidden, py::arg("slot"), py::arg("spans"), py::arg("positions"))
      .def("logits", logits, py::arg("slot"), py::arg("spans"), py::arg("positions"))
      .def(
          "set_trace",
          [](const RuntimeHandle& h, bool on) {
            const auto runtime = h.get();
            const py::gil_scoped_release release;
            runtime->set_trace(on);
          },
          py::arg("on"))
      .def("trace", trace, "op -> (calls, wall and CPU nanoseconds) since set_trace(True)")
      .def("close", &RuntimeHandle::close);
  module.def("describe_model", describe_model, py::arg("path"));
  module.def("memory_needs", memory_needs, py::arg("path"), py::arg("compute_type") = "auto", py::arg("table") = "",
             py::arg("num_threads") = 0, py::arg("num_rows") = 1);
}

}  // namespace llada
