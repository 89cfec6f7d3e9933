// The gated activation of the feed-forward block: silu(gate) * up.
#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/simd/math.h"

namespace llada::cpu::LLADA_TABLE {

void swiglu(Stream stream, ConstTensor gate_up, Tensor out) {
  parallel_for(*stream.pool, out.rows, [&](std::int64_t r, int) {
    const float* gate = static_cast<const float*>(gate_up.data) + r * gate_up.cols;
    const std::int64_t hidden = gate_up.cols / 2;
    const float* up = gate + hidden;
    const Row to = row_of(out.data, out.dtype, r, out.cols);
    for (std::int64_t i = 0; i < hidden; i += kLanes) {
      const std::int64_t n = lanes_left(i, hidden);
      const F32 g = load_n(gate + i, n);
      // g below -88 makes exp overflow; the quotient is 0 to float32 long before.
      const F32 silu = g / (set1(1.0f) + exp(min(zero() - g, set1(88.0f))));
      to.store(i, silu * load_n(up + i, n), n);
    }
    for (std::int64_t i = hidden; i < out.cols; ++i) to.store(i, zero(), 1);
  });
}

}  // namespace llada::cpu::LLADA_TABLE
