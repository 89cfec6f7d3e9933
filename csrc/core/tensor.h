// A view of memory with a shape: row-major, last dimension contiguous, owns nothing. Buffer is the owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/dtype.h"

namespace llada {

// Two dimensions are enough for the page of ops; a (rows, heads, head_dim) array is (rows, heads * head_dim) here.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
};

struct ConstTensor {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;

  ConstTensor() = default;
  ConstTensor(const void* data_in, DType dtype_in, std::int64_t rows_in, std::int64_t cols_in)
      : data(data_in), dtype(dtype_in), rows(rows_in), cols(cols_in) {}
  ConstTensor(const Tensor& t)
      : data(t.data), dtype(t.dtype), rows(t.rows), cols(t.cols) {}  // NOLINT: a view of a view
};

// From one row of a tensor to the next. A row of int8 or float8 ends with its scale, see ops/ops.h.
LLADA_INLINE std::int64_t row_bytes(DType dtype, std::int64_t cols) {
  if (dtype == DType::kInt8) return (cols + 3) / 4 * 4 + 4;
  if (dtype == DType::kFloat8) return (cols + 15) / 16 * 16 + 16;
  return cols * size_of(dtype);
}

// Memory aligned to a cache line, zeroed on request; large ones in huge pages (core/pages.h). Throws OutOfMemory with
// the size that was asked for.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::int64_t num_bytes, bool zero = false);

  char* data() const { return memory_.get(); }
  std::int64_t num_bytes() const { return num_bytes_; }

  // Grows to at least num_bytes; the content is not kept.
  void reserve(std::int64_t num_bytes);

 private:
  struct Free {
    std::int64_t num_bytes;
    void operator()(char* memory) const;
  };
  std::unique_ptr<char, Free> memory_;
  std::int64_t num_bytes_ = 0;
};

}  // namespace llada
