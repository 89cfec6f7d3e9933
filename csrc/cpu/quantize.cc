// Rows of float32 to rows of int8, where the op before could not quantise: none of its units of work sees a whole row.
#include "cpu/simd/quantize.h"

#include "core/parallel.h"
#include "cpu/kernels.h"

namespace llada::cpu::LLADA_TABLE {

void quantize(Stream stream, ConstTensor x, Tensor out) {
  const std::int64_t out_step = row_bytes(DType::kInt8, out.cols);
  parallel_for(*stream.pool, x.rows, [&](std::int64_t r, int) {
    const float* from = static_cast<const float*>(x.data) + r * x.cols;
    quantize_row(
        x.cols, [&](std::int64_t i, std::int64_t n) { return load_n(from + i, n); },
        static_cast<char*>(out.data) + r * out_step);
  });
}

}  // namespace llada::cpu::LLADA_TABLE
