// _core.Runtime: a loaded model, its slots and the denoising loop. The GIL is released while the engine works.
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/model_facts.h"
#include "bindings/outputs.h"
#include "bindings/runtime_handle.h"
#include "model/tensor_records.h"

namespace llada {
namespace {

py::dict config_dict(const Runtime& runtime) {
  py::dict d = config_dict(runtime.config());
  d["checkpoint_dtype"] = name_of(runtime.weights().checkpoint_dtype);
  return d;
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
                  const std::optional<IntArray>& targets, double max_seconds, bool alternatives,
                  const std::optional<IntArray>& allowed_positions, const std::optional<WordArray>& allowed) {
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
  check(allowed.has_value() == allowed_positions.has_value(), ErrorKind::kInvalidRequest,
        "expected allowed_positions and allowed together");
  if (allowed) {
    const std::int64_t num_words = set_words(runtime->config().vocab_size);
    check(allowed->ndim() == 2 && allowed->shape(0) == allowed_positions->size() && allowed->shape(1) == num_words,
          ErrorKind::kInvalidRequest, "allowed: expected a row of ", num_words, " words for each position");
    plan.allowed_positions = allowed_positions->data();
    plan.allowed = allowed->data();
    plan.num_sets = allowed_positions->size();
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

template <std::size_t kCount>
py::tuple names_of(const char* const (&names)[kCount]) {
  py::tuple told(kCount);
  for (std::size_t i = 0; i < kCount; ++i) told[i] = names[i];
  return told;
}

}  // namespace

void bind_runtime(py::module_& module) {
  PYBIND11_NUMPY_DTYPE(QuerySpan, start, stop, visible);
  PYBIND11_NUMPY_DTYPE(SelectRule, kind, num_masked, num_steps, next_step, count, value, edit_threshold, max_post_steps,
                       near_value, radius, alpha);
  PYBIND11_NUMPY_DTYPE(SamplingRule, mask_id, score, temperature, guidance_scale, seed, suppressed_token,
                       unconfident_tokens, propose_mask, num_alternatives, step);
  PYBIND11_NUMPY_DTYPE(SequencePlan, slot, guide_slot, first_begin, first_end, next_begin, next_end, block_start,
                       block_stop, commit_start, editable_begin, editable_end, post_steps, step, compact, targets_begin,
                       targets_end, allowed_begin, allowed_end, border_stop, border_token, border_probability, select,
                       sampling);
  PYBIND11_NUMPY_DTYPE(SequenceOutcome, num_query_rows, num_refreshes, num_steps, num_masked, block_done, bad_position,
                       num_post_steps, block_stop);
  PYBIND11_NUMPY_DTYPE(CommitRecord, sequence, step, position, token, replaced, confidence, log_prob);
  PYBIND11_NUMPY_DTYPE(Alternative, token, log_prob);
  module.attr("SEQUENCE_DTYPE") = py::dtype::of<SequencePlan>();
  module.attr("SELECT_KINDS") = names_of(kSelectNames);
  module.attr("SCORES") = names_of(kScoreNames);
  module.attr("SPAN_DTYPE") = py::dtype::of<QuerySpan>();
  module.attr("OUTCOME_DTYPE") = py::dtype::of<SequenceOutcome>();
  module.attr("COMMIT_DTYPE") = py::dtype::of<CommitRecord>();

  py::class_<RuntimeHandle>(module, "Runtime")
      .def(py::init([](const std::string& path, const std::string& compute_type, const std::string& table,
                       int num_threads, int device_index, std::uintptr_t stream) {
             const py::gil_scoped_release release;
             const RuntimeOptions options{
                 {compute_type, table, num_threads}, device_index, reinterpret_cast<void*>(stream)};
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
          [](const RuntimeHandle& h, const IntArray& tokens, std::int32_t last_position) {
            const auto runtime = h.get();
            std::vector<std::int32_t> canvas = to_vector(tokens);
            const py::gil_scoped_release release;
            return runtime->open_slot(std::move(canvas), last_position);
          },
          py::arg("tokens"), py::arg("last_position") = -1)
      .def(
          "copy_slot",
          [](const RuntimeHandle& h, std::int32_t slot) {
            const auto runtime = h.get();
            const py::gil_scoped_release release;
            return runtime->copy_slot(slot);
          },
          py::arg("slot"))
      .def(
          "write_slot",
          [](const RuntimeHandle& h, std::int32_t slot, const IntArray& tokens, std::int32_t last_position) {
            const auto runtime = h.get();
            std::vector<std::int32_t> canvas = to_vector(tokens);
            const py::gil_scoped_release release;
            runtime->write_slot(slot, std::move(canvas), last_position);
          },
          py::arg("slot"), py::arg("tokens"), py::arg("last_position") = -1)
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
           py::arg("targets") = std::nullopt, py::arg("max_seconds") = 0.0, py::arg("alternatives") = false,
           py::arg("allowed_positions") = std::nullopt, py::arg("allowed") = std::nullopt)
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
}

}  // namespace llada
