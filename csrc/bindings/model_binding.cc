// What is known of a model folder before its weights are read: the shape, the tensors, the memory that they take.
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <vector>

#include "bindings/model_facts.h"
#include "denoise/memory_needs.h"
#include "model/tensor_records.h"
#include "ops/registry.h"

namespace llada {
namespace {

py::object optional_id(std::int64_t id) { return id < 0 ? py::object(py::none()) : py::object(py::int_(id)); }

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
py::tuple needs(const std::string& path, const std::string& compute_type, const std::string& table, int num_threads,
                std::int64_t num_rows) {
  MemoryNeeds needs;
  {
    const py::gil_scoped_release release;
    needs = memory_needs(path, {compute_type, table, num_threads}, num_rows);
  }
  return py::make_tuple(needs.compute_type->name, needs.weights, needs.workspace, needs.least_kv);
}

py::dict footprint_dict(const std::string& path, std::int64_t length, std::int64_t num_rows,
                        std::int64_t num_candidates, const std::string& compute_type, const std::string& table,
                        int num_threads) {
  Footprint found;
  {
    const py::gil_scoped_release release;
    found = footprint(path, {compute_type, table, num_threads}, {length, num_rows, num_candidates});
  }
  py::dict d;
  d["compute_type"] = found.compute_type->name;
  d["weights"] = found.weights;
  d["angle_positions"] = found.angle_positions;
  d["angle_columns"] = found.angle_columns;
  d["angles"] = found.angles;
  d["kv_positions"] = found.kv_positions;
  d["kv_bytes_per_token"] = found.kv_bytes_per_token;
  d["kv_slot"] = found.kv_slot;
  d["workspace"] = found.workspace;
  return d;
}

// Compute type -> its element types, see ops/ops.h, and the bits of a weight.
py::dict element_types() {
  py::dict all;
  for (const ComputeType& type : compute_types()) {
    py::dict d;
    d["rows"] = name_of(type.rows);
    d["operand"] = name_of(type.operand);
    d["weight"] = name_of(type.weight);
    d["weight_bits"] = bits_per_weight(type);
    all[type.name] = d;
  }
  return all;
}

// Names of the compute types that a folder can run in, by its config.json, with a table of ops.
py::tuple runnable(const std::string& path, const std::string& table) {
  py::list names;
  for (const ComputeType* type : runnable_types(load_config(path).quantization, find_table(table)))
    names.append(type->name);
  return py::tuple(names);
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
  return d;
}

void bind_model(py::module_& module) {
  py::list types;
  for (const ComputeType& type : compute_types()) types.append(type.name);
  module.attr("COMPUTE_TYPES") = py::tuple(types);
  module.attr("ELEMENT_TYPES") = element_types();
  module.def("describe_model", describe_model, py::arg("path"));
  module.def("runnable_types", runnable, py::arg("path"), py::arg("table") = "");
  module.def("memory_needs", needs, py::arg("path"), py::arg("compute_type") = "auto", py::arg("table") = "",
             py::arg("num_threads") = 0, py::arg("num_rows") = 1);
  module.def("footprint", footprint_dict, py::arg("path"), py::arg("length"), py::arg("num_rows"),
             py::arg("num_candidates"), py::arg("compute_type") = "auto", py::arg("table") = "",
             py::arg("num_threads") = 0, "Bytes that requests come to take, see csrc/denoise/memory_needs.h.");
}

}  // namespace llada
