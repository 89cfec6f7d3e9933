// Arrays leave by DLPack: the memory stays in place and lives as long as somebody has an array of it. The structs are
// those of the ABI (dlpack.h, versions 0 and 1), written out so that no package is needed.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>

namespace llada::dlpack {

namespace py = pybind11;

enum DeviceType : std::int32_t { kCpu = 1, kCuda = 2 };
enum Code : std::uint8_t { kFloat = 2, kBFloat = 4 };

struct Device {
  std::int32_t type;
  std::int32_t index;
};

struct DataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};

struct Managed {
  Tensor tensor;
  void* context;
  void (*deleter)(Managed*);
};

struct ManagedVersioned {
  std::uint32_t major, minor;
  void* context;
  void (*deleter)(ManagedVersioned*);
  std::uint64_t flags;
  Tensor tensor;
};

// Whether this thread has the GIL. Not PyGILState_Check, which says yes to every thread once there are subinterpreters.
inline bool has_gil() {
  PyThreadState* const own = PyGILState_GetThisThreadState();
  return own != nullptr && own == py::detail::get_thread_state_unchecked();
}

// A matrix (rows, cols), row-major, that `owner` keeps. The owner's destructor may run with the GIL or without it.
class Array {
 public:
  Array(void* data, DataType dtype, Device device, std::int64_t rows, std::int64_t cols, std::shared_ptr<void> owner)
      : data_(data), dtype_(dtype), device_(device), shape_{rows, cols}, owner_(std::move(owner)) {}

  py::tuple shape() const { return py::make_tuple(shape_[0], shape_[1]); }
  py::tuple device() const { return py::make_tuple(device_.type, device_.index); }

  py::capsule capsule(bool versioned) const {
    return versioned ? make<ManagedVersioned>("dltensor_versioned") : make<Managed>("dltensor");
  }

 private:
  template <class Form>
  struct Lent {
    Form form;
    std::int64_t shape[2];
    std::int64_t strides[2];
    std::shared_ptr<void> owner;
  };

  // Whoever takes the array renames the capsule; one that nobody took frees what it holds.
  template <class Form>
  py::capsule make(const char* name) const {
    auto* lent = new Lent<Form>{{}, {shape_[0], shape_[1]}, {shape_[1], 1}, owner_};
    lent->form.tensor = {data_, device_, 2, dtype_, lent->shape, lent->strides, 0};
    if constexpr (std::is_same_v<Form, ManagedVersioned>) lent->form.major = 1;
    lent->form.context = lent;
    // Called by whoever took the array, on any thread, with the GIL or without: nothing in here is Python's.
    lent->form.deleter = [](Form* form) { delete static_cast<Lent<Form>*>(form->context); };
    return py::capsule(&lent->form, name, [](PyObject* object) {
      const char* left = PyCapsule_GetName(object);
      if (left == nullptr || std::strncmp(left, "used", 4) == 0) return;
      auto* form = static_cast<Form*>(PyCapsule_GetPointer(object, left));
      form->deleter(form);
    });
  }

  void* data_;
  DataType dtype_;
  Device device_;
  std::int64_t shape_[2];
  std::shared_ptr<void> owner_;
};

}  // namespace llada::dlpack
