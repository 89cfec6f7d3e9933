// Rows that move up within a matrix.
#include <cstring>

#include "cpu/tables.h"

namespace llada::cpu {

void keep_rows(Stream, const std::int32_t* rows, std::int64_t num_kept, Tensor x) {
  const std::int64_t step = row_bytes(x.dtype, x.cols);
  char* data = static_cast<char*>(x.data);
  for (std::int64_t i = 0; i < num_kept; ++i)
    std::memmove(data + i * step, data + rows[i] * step, static_cast<std::size_t>(step));
}

}  // namespace llada::cpu
