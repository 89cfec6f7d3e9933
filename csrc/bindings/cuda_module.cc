// The extension module llada_rt._cuda: the table of the CUDA backend in a capsule for _core, and facts of the devices.
// The module loads where there is no driver, and says that there is none.
#include <pybind11/pybind11.h>

#include "bindings/build_facts.h"
#include "core/check.h"
#include "cuda/device/facts.h"
#include "cuda/device/options.h"
#include "cuda/measure_peak.h"
#include "cuda/table.h"
#include "ops/offer.h"

namespace py = pybind11;

namespace llada {
namespace {

// {"count": usable devices, "why": what is missing if there are none}. Never raises.
py::dict probe() {
  std::string why;
  py::dict d;
  d["count"] = cuda::num_devices(why);
  d["why"] = why;
  return d;
}

// What ask() returns; DeviceError if it throws.
template <class Ask>
auto of_device(const Ask& ask) {
  try {
    return ask();
  } catch (const Error& error) {
    const py::object type = py::module_::import("llada_rt.errors").attr("DeviceError");
    PyErr_SetString(type.ptr(), error.what());
    throw py::error_already_set();
  }
}

py::dict facts(int index) {
  const cuda::DeviceFacts facts = of_device([&] { return cuda::device_facts(index); });
  py::dict d;
  d["name"] = facts.name;
  d["index"] = facts.index;
  d["compute_capability"] = std::to_string(facts.capability / 10) + "." + std::to_string(facts.capability % 10);
  d["num_processors"] = facts.num_processors;
  d["memory_bytes"] = facts.memory_bytes;
  d["l2_bytes"] = facts.l2_bytes;
  d["driver"] = facts.driver;
  d["runtime"] = facts.runtime;
  return d;
}

}  // namespace
}  // namespace llada

PYBIND11_MODULE(_cuda, module) {
  using namespace llada;
  module.doc() = "CUDA backend of llada_rt, see csrc/cuda.";
  module.attr("ARCHITECTURES") = LLADA_CUDA_ARCHITECTURES;
  module.attr("HAS_CUTLASS") = cuda::has_cutlass();
  module.attr("SESSION_BYTES") = cuda::session_bytes();
  module.attr("SOURCES") = kSourcesHash;
  module.def("probe", probe, "How many devices can be used, and why none can: {'count', 'why'}. Never raises.");
  module.def("facts", facts, py::arg("index"), "What a device is. Raises DeviceError.");
  module.def(
      "read_bandwidth", [](int index) { return of_device([&] { return cuda::measure_read_bandwidth(index); }); },
      py::arg("index"), "GB/s of reading a device's memory, measured. Raises DeviceError.");
  static const TableOffer kOffer = offer(cuda::table());
  module.def("table", [] { return py::capsule(&kOffer, kOfferName); }, "For _core.add_table.");
}
