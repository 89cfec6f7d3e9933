// Rows of the embedding table, widened to the float32 residual stream.
#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/simd/math.h"

namespace llada::cpu::LLADA_TABLE {

void embed(Stream stream, const std::int32_t* tokens, ConstTensor table, Tensor out) {
  parallel_for(*stream.pool, out.rows, [&](std::int64_t r, int) {
    const Row from = row_of(table.data, table.dtype, tokens[r], table.cols);
    const Row to = row_of(out.data, DType::kFloat32, r, out.cols);
    for (std::int64_t i = 0; i < out.cols; i += kLanes) {
      const std::int64_t n = lanes_left(i, out.cols);
      to.store(i, from.load(i, n), n);
    }
  });
}

}  // namespace llada::cpu::LLADA_TABLE
