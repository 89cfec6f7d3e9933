// What Python holds of a runtime.
#pragma once

#include <memory>
#include <utility>

#include "bindings/convert.h"
#include "denoise/runtime.h"

namespace llada {

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

}  // namespace llada
