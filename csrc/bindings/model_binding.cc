// What is known of a model folder before its weights are read: the shape, the tensors, the memory that they take.
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/model_facts.h"
#include "denoise/runtime.h"
#include "model/tensor_records.h"

namespace llada {
namespace {

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

}  // namespace

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

void bind_model(py::module_& module) {
  py::list types;
  for (const ComputeType& type : compute_types()) types.append(type.name);
  module.attr("COMPUTE_TYPES") = py::tuple(types);
  module.def("describe_model", describe_model, py::arg("path"));
  module.def("memory_needs", memory_needs, py::arg("path"), py::arg("compute_type") = "auto", py::arg("table") = "",
             py::arg("num_threads") = 0, py::arg("num_rows") = 1);
}

}  // namespace llada
