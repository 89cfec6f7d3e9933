// Rotary position embedding of queries.
#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/simd/rotate.h"

namespace llada::cpu::LLADA_TABLE {

void rope(Stream stream, ConstTensor x, ConstTensor angles, const std::int32_t* positions, std::int64_t head_dim,
          Tensor out) {
  parallel_for(*stream.pool, x.rows, [&](std::int64_t r, int) {
    const float* angle = static_cast<const float*>(angles.data) + positions[r] * angles.cols;
    const Row to = row_of(out.data, out.dtype, r, out.cols);
    for (std::int64_t head = 0; head < x.cols; head += head_dim) {
      const float* from = static_cast<const float*>(x.data) + r * x.cols + head;
      prefetch_floats(from + x.cols, head_dim);
      rotate(from, angle, head_dim, [&](std::int64_t i, F32 v, std::int64_t n) { to.store(head + i, v, n); });
    }
  });
}

}  // namespace llada::cpu::LLADA_TABLE
