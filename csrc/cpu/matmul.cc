// matmul and matmul_swiglu with packed weights. A unit of work is one panel of 64 outputs and a block of rows.
#include "core/parallel.h"
#include "cpu/bands.h"
#include "cpu/kernels.h"
#include "cpu/simd/panel.h"

namespace llada::cpu::LLADA_TABLE {
namespace {

constexpr std::int64_t kRowBlock = 96;  // a scratch tile of 96 x 64 floats is 24 KiB

constexpr std::int64_t kBandBlocks = 2;  // rows that stay in the L2 cache beside a panel

// Runs function(panel, first row, rows, scratch sums, scratch for widened weights) for each unit. Blocks have one size,
// or a row less.
template <class Function>
LLADA_INLINE void for_each_unit(Stream stream, ConstTensor x, const PackedWeight& weight, const Function& function) {
  const std::int64_t num_blocks = (x.rows + kRowBlock - 1) / kRowBlock;
  const Bands bands(num_blocks, num_panels_of(weight), stream.pool->num_threads(), kBandBlocks);
  constexpr std::int64_t kSumBytes = kRowBlock * kPanel * 4;
  parallel_for(*stream.pool, bands.num_units(), [&](std::int64_t unit, int worker) {
    const auto [block, panel] = bands.at(unit);
    const std::int64_t row = block * x.rows / num_blocks, end = (block + 1) * x.rows / num_blocks;
    char* scratch = stream.pool->scratch(worker, kSumBytes + kWideBytes);
    function(panel, row, end - row, reinterpret_cast<float*>(scratch), scratch + kSumBytes);
  });
}

}  // namespace

void matmul(Stream stream, ConstTensor x, const PackedWeight& weight, bool accumulate, Tensor out) {
  for_each_unit(
      stream, x, weight, [&](std::int64_t panel, std::int64_t row, std::int64_t num_rows, float* sums, char* wide) {
        const std::int64_t col = panel * kPanel;
        const std::int64_t num_cols = weight.num_out - col < kPanel ? weight.num_out - col : kPanel;
        float* target = static_cast<float*>(out.data) + row * out.cols + col;
        if (num_cols == kPanel && !accumulate && is_float(weight.dtype)) {
          panel_product(panel_rows(x, row, num_rows, target, out.cols), x, weight, panel, wide);
          return;
        }
        // With a residual the product is summed by itself and added last: the small terms would be lost one
        // by one in a large residual. Sums of integers are read again and again, so they lie close
        // together.
        const PanelSums product = panel_product(panel_rows(x, row, num_rows, sums, kPanel), x, weight, panel, wide);
        for (std::int64_t r = 0; r < num_rows; ++r) {
          for (std::int64_t c = 0; c < num_cols; c += kLanes) {
            const std::int64_t n = lanes_left(c, num_cols);
            float* to = target + r * out.cols + c;
            const F32 sum = product.at(r, c);
            store_n(to, accumulate ? load_n(to, n) + sum : sum, n);
          }
        }
      });
}

void matmul_swiglu(Stream stream, ConstTensor x, const PackedWeight& weight, Tensor out) {
  constexpr std::int64_t kHalf = kPanel / 2;  // outputs of gate, then as many of up
  const std::int64_t hidden = weight.num_out / 2;
  for_each_unit(
      stream, x, weight, [&](std::int64_t panel, std::int64_t row, std::int64_t num_rows, float* sums, char* wide) {
        const PanelSums product = panel_product(panel_rows(x, row, num_rows, sums, kPanel), x, weight, panel, wide);
        const std::int64_t col = panel * kHalf;
        const std::int64_t num_cols = hidden - col < kHalf ? hidden - col : kHalf;
        for (std::int64_t r = 0; r < num_rows; ++r) {
          const Row to = row_of(out.data, out.dtype, row + r, out.cols);
          for (std::int64_t c = 0; c < num_cols; c += kLanes) {
            const F32 gate = product.at(r, c), up = product.at(r, kHalf + c);
            // A gate below -88 makes exp overflow; the quotient is 0 to float32 long before.
            const F32 silu = gate / (set1(1.0f) + exp(min(zero() - gate, set1(88.0f))));
            to.store(col + c, silu * up, lanes_left(c, num_cols));
          }
          if (col + num_cols == hidden)
            for (std::int64_t i = hidden; i < out.cols; ++i) to.store(i, zero(), 1);
        }
      });
}

}  // namespace llada::cpu::LLADA_TABLE
