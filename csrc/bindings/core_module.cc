// The extension module llada_rt._core: errors, tables and build facts; the rest is in model_binding.cc,
// outputs.cc, runtime_binding.cc and ops_binding.cc.
#include <pybind11/stl.h>

#include <exception>
#include <new>
#include <stdexcept>
#include <system_error>

#include "bindings/build_facts.h"
#include "bindings/convert.h"
#include "core/env.h"
#include "cpu/tables.h"
#include "ops/offer.h"
#include "ops/registry.h"

namespace llada {
namespace {

const char* python_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kConfig:
      return "ConfigError";
    case ErrorKind::kModelNotFound:
      return "ModelNotFoundError";
    case ErrorKind::kModelFormat:
      return "ModelFormatError";
    case ErrorKind::kUnsupportedModel:
      return "UnsupportedModelError";
    case ErrorKind::kInvalidRequest:
      return "InvalidRequestError";
    case ErrorKind::kContextLength:
      return "ContextLengthError";
    case ErrorKind::kOutOfMemory:
      return "OutOfMemoryError";
    case ErrorKind::kDevice:
      return "DeviceError";
    case ErrorKind::kInternal:
      break;
  }
  return "InternalError";
}

void raise(ErrorKind kind, const char* message) {
  const py::object type = py::module_::import("llada_rt.errors").attr(python_name(kind));
  PyErr_SetString(type.ptr(), message);
}

void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const Error& error) {
    raise(error.kind(), error.what());
  } catch (const std::bad_alloc&) {
    raise(ErrorKind::kOutOfMemory, "an allocation failed");
  } catch (const std::length_error& error) {
    raise(ErrorKind::kOutOfMemory, error.what());
  } catch (const std::system_error& error) {  // a lock, a thread
    raise(ErrorKind::kInternal, error.what());
  }
}

std::vector<std::string> table_names() {
  std::vector<std::string> names;
  for (const Ops* table : tables()) names.emplace_back(table->name);
  return names;
}

// Takes up the table of another extension module. A name that is there already is left alone. Throws DeviceError for a
// table made by another page of ops: its pointers would lie elsewhere.
void add_table(const py::capsule& capsule) {
  const std::string name = capsule.name() == nullptr ? "no name" : capsule.name();
  check(name == kOfferName, ErrorKind::kDevice, "a table of ops: expected a capsule named ", kOfferName, ", got ", name,
        "; the two compiled modules come of different builds: build the package again");
  const Ops& table = accepted(*capsule.get_pointer<const TableOffer>());
  for (const std::string& known : table_names())
    if (known == table.name) return;
  register_table(&table);
}

}  // namespace
}  // namespace llada

PYBIND11_MODULE(_core, module) {
  using namespace llada;
  cpu::register_tables();
  py::register_exception_translator(translate);
  module.doc() = "Compiled half of llada_rt: see csrc/ops/ops.h and csrc/denoise/plan.h for the contracts.";
  module.def("tables", table_names, "Instruction-set tables this machine can run, best first.");
  module.def("add_table", add_table, py::arg("capsule"),
             "Takes up the table in a capsule that another extension module made.");
  module.def("default_num_threads", default_num_threads, "Threads by affinity mask and cgroup quota.");
  module.def("build_info", [] {
    py::dict info;
    info["version"] = LLADA_VERSION;
    info["compiler"] = LLADA_COMPILER;
    info["sources"] = kSourcesHash;
    info["nvcc_found"] = LLADA_FOUND_NVCC != 0;
    return info;
  });
  bind_model(module);
  bind_outputs(module);
  bind_runtime(module);
  bind_ops(module);
}
