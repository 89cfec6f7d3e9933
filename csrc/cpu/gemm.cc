// Products with packed weights. A unit of work is one panel of 64 outputs and a block of rows.
#include <cstdlib>
#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/simd/panel.h"

namespace llada::cpu::LLADA_TABLE {
namespace {

constexpr std::int64_t kRowBlock = 96;  // a scratch tile of 96 x 64 floats is 24 KiB

struct Block {
  std::int64_t row;
  std::int64_t num_rows;
};

// The rows in blocks of one size, or one row less.
LLADA_INLINE Block block_of(std::int64_t index, std::int64_t num_blocks, std::int64_t num_rows) {
  const std::int64_t begin = index * num_rows / num_blocks, end = (index + 1) * num_rows / num_blocks;
  return {begin, end - begin};
}

// Runs function(panel, first row, rows, scratch sums, scratch for widened weights) for each unit. Neighbouring units go
// to one core: a few blocks of rows with all panels after one another, so that it finds in its own caches the rows which
// it wrote in the op before.
template <class Function>
LLADA_INLINE void for_each_unit(Stream stream, ConstTensor x, const PackedWeight& weight, const Function& function) {
  const std::int64_t num_blocks = (x.rows + kRowBlock - 1) / kRowBlock;
  const std::int64_t num_panels = num_panels_of(weight);
  const std::int64_t most = std::getenv("GS") ? atoi(std::getenv("GS")) : 2;
  const std::int64_t each = num_blocks / stream.pool->num_threads();
  const std::int64_t together = each < 1 ? 1 : each < most ? each : most;  // blocks
  constexpr std::int64_t kSumBytes = kRowBlock * kPanel * 4;
  parallel_for(*stream.pool, num_panels * num_blocks, [&](std::int64_t unit, int worker) {
    const std::int64_t first = unit / (num_panels * together) * together;
    const std::int64_t width = num_blocks - first < together ? num_blocks - first : together;
    const std::int64_t inside = unit - first * num_panels;
    const Block block = block_of(first + inside % width, num_blocks, x.rows);
    char* scratch = stream.pool->scratch(worker, kSumBytes + kWideBytes);
    function(inside / width, block.row, block.num_rows, reinterpret_cast<float*>(scratch), scratch + kSumBytes);
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
        // by one in a large residual. Of integers the sums are read again and again, so they lie close
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
