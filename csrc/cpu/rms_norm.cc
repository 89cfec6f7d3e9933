// Root-mean-square norm of each row of the residual stream.
#include <cmath>

#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/simd/quantize.h"

namespace llada::cpu::LLADA_TABLE {

void rms_norm(Stream stream, ConstTensor x, ConstTensor weight, float eps, Tensor out) {
  const float* scale = static_cast<const float*>(weight.data);
  parallel_for(*stream.pool, x.rows, [&](std::int64_t r, int) {
    const float* from = static_cast<const float*>(x.data) + r * x.cols;
    prefetch_floats(from + x.cols, x.cols);
    F32 squares = zero();
    for (std::int64_t i = 0; i < x.cols; i += kLanes) {
      const F32 v = load_n(from + i, lanes_left(i, x.cols));
      squares = fma(v, v, squares);
    }
    const float mean = sum(squares) / static_cast<float>(x.cols);
    const F32 factor = set1(1.0f / std::sqrt(mean + eps));
    if (out.dtype == DType::kInt8) {
      const auto scaled = [&](std::int64_t i, std::int64_t n) {
        return load_n(from + i, n) * factor * load_n(scale + i, n);
      };
      return quantize_row(x.cols, scaled, static_cast<char*>(out.data) + r * row_bytes(out.dtype, out.cols));
    }
    const Row to = row_of(out.data, out.dtype, r, out.cols);
    for (std::int64_t i = 0; i < x.cols; i += kLanes) {
      const std::int64_t n = lanes_left(i, x.cols);
      F32 v = load_n(from + i, n) * factor;
      if (out.dtype == DType::kBFloat16) v = round_bf16(v);
      to.store(i, v * load_n(scale + i, n), n);
    }
  });
}

}  // namespace llada::cpu::LLADA_TABLE
