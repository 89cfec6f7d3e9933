// Products with packed weights. A unit of work is one panel of 64 outputs and a block of rows.
#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/simd/math.h"
#include "cpu/simd/tile.h"

namespace llada::cpu::LLADA_TABLE {
namespace {

constexpr std::int64_t kRowBlock = 96;  // a scratch tile of 96 x 64 floats is 24 KiB

// By memcpy: a checkpoint file promises no alignment.
LLADA_INLINE float element(const ConstTensor& t, std::int64_t index) {
  const char* at = static_cast<const char*>(t.data) + index * size_of(t.dtype);
  if (t.dtype == DType::kFloat32) {
    float value;
    std::memcpy(&value, at, 4);
    return value;
  }
  std::uint16_t half;
  std::memcpy(&half, at, 2);
  return t.dtype == DType::kBFloat16 ? bf16_to_float(half) : f16_to_float(half);
}

}  // namespace

std::int64_t packed_bytes(std::int64_t num_out, std::int64_t num_in, DType dtype) {
  const std::int64_t pack = pack_of(dtype);
  return (num_out + kPanel - 1) / kPanel * kPanel * ((num_in + pack - 1) / pack) * 4;
}

bool pack(Stream stream, ConstTensor weight, DType dtype, void* packed) {
  const std::int64_t pack = pack_of(dtype);
  const std::int64_t num_packs = (weight.cols + pack - 1) / pack;
  bool finite = true;
  parallel_for(*stream.pool, (weight.rows + kPanel - 1) / kPanel, [&](std::int64_t panel, int) {
    char* out = static_cast<char*>(packed) + panel * num_packs * kPanel * 4;
    for (std::int64_t k = 0; k < num_packs * pack; ++k) {
      for (std::int64_t lane = 0; lane < kPanel; ++lane) {
        const std::int64_t row = panel * kPanel + lane;
        const bool inside = row < weight.rows && k < weight.cols;
        float value = inside ? element(weight, row * weight.cols + k) : 0.0f;
        if (dtype == DType::kBFloat16) value = bf16_to_float(float_to_bf16(value));
        if ((bits_of(value) & 0x7f800000u) == 0x7f800000u) __atomic_store_n(&finite, false, __ATOMIC_RELAXED);
        const std::int64_t index = ((k / pack) * kPanel + lane) * pack + k % pack;
        if (dtype == DType::kFloat32)
          reinterpret_cast<float*>(out)[index] = value;
        else
          reinterpret_cast<std::uint16_t*>(out)[index] = static_cast<std::uint16_t>(bits_of(value) >> 16);
      }
    }
  });
  return finite;
}

void matmul(Stream stream, ConstTensor x, const PackedWeight& weight, bool accumulate, Tensor out) {
  const std::int64_t num_packs = (weight.num_in + pack_of(x.dtype) - 1) / pack_of(x.dtype);
  const std::int64_t row_bytes = x.cols * size_of(x.dtype);
  const std::int64_t num_panels = (weight.num_out + kPanel - 1) / kPanel;
  const std::int64_t num_blocks = (x.rows + kRowBlock - 1) / kRowBlock;
  parallel_for(*stream.pool, num_panels * num_blocks, [&](std::int64_t unit, int worker) {
    const std::int64_t panel = unit / num_blocks;
    const std::int64_t row = unit % num_blocks * kRowBlock;
    const std::int64_t num_rows = x.rows - row < kRowBlock ? x.rows - row : kRowBlock;
    const std::int64_t col = panel * kPanel;
    const std::int64_t num_cols = weight.num_out - col < kPanel ? weight.num_out - col : kPanel;
    const char* rows = static_cast<const char*>(x.data) + row * row_bytes;
    const char* packed = static_cast<const char*>(weight.data) + panel * num_packs * kPanel * 4;
    float* target = static_cast<float*>(out.data) + row * out.cols + col;
    if (num_cols == kPanel && !accumulate)
      return panel_product(x.dtype, rows, row_bytes, packed, num_packs, num_rows, target, out.cols);
    // The product is summed by itself and added last: the small terms would be lost one by one in a large residual.
    float* sums = reinterpret_cast<float*>(stream.pool->scratch(worker, kRowBlock * kPanel * 4));
    panel_product(x.dtype, rows, row_bytes, packed, num_packs, num_rows, sums, kPanel);
    for (std::int64_t r = 0; r < num_rows; ++r) {
      for (std::int64_t c = 0; c < num_cols; c += kLanes) {
        const std::int64_t n = lanes_left(c, num_cols);
        float* to = target + r * out.cols + c;
        const F32 sum = load(sums + r * kPanel + c);
        store_n(to, accumulate ? load_n(to, n) + sum : sum, n);
      }
    }
  });
}

}  // namespace llada::cpu::LLADA_TABLE
