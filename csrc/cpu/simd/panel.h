// A panel of 64 outputs of a packed weight against rows of x, for all their types: what the products and the head have
// in common. PackedWeight in ops/ops.h tells the order of a panel.
#pragma once

#include "cpu/simd/math.h"
#include "cpu/simd/tile.h"
#include "ops/ops.h"

namespace llada::cpu::LLADA_TABLE {

constexpr std::int64_t kGroup = 32;  // inputs that share a scale of int4
constexpr std::int64_t kInt4GroupBytes = 4 * kPanel + kGroup / 2 * kPanel;
constexpr std::int64_t kWideInputs = 128;  // of a panel, widened to bfloat16 at a time: 16 KiB of the L1 cache
constexpr std::int64_t kWideBytes = kWideInputs * kPanel * 2;

LLADA_INLINE std::int64_t num_panels_of(const PackedWeight& weight) {
  if (weight.paired) return (weight.num_out / 2 + kPanel / 2 - 1) / (kPanel / 2);
  return (weight.num_out + kPanel - 1) / kPanel;
}

LLADA_INLINE std::int64_t num_packs_of(const PackedWeight& weight) {
  const std::int64_t pack = pack_of(weight.dtype);
  return (weight.num_in + pack - 1) / pack;
}

LLADA_INLINE std::int64_t panel_bytes(const PackedWeight& weight) {
  if (weight.dtype == DType::kInt4) return (weight.num_in + kGroup - 1) / kGroup * kInt4GroupBytes;
  return num_packs_of(weight) * kPanel * 4 + (weight.dtype == DType::kInt8 ? 2 * kPanel * 4 : 0);
}

// The bytes of the first num_inputs inputs (whole groups) in a panel of int8 or int4.
LLADA_INLINE std::int64_t inputs_bytes(DType dtype, std::int64_t num_inputs) {
  return dtype == DType::kInt8 ? num_inputs * kPanel : num_inputs / kGroup * kInt4GroupBytes;
}

// Rows of x and of the result c (num_rows, 64).
struct PanelRows {
  const char* x;
  std::int64_t x_step;  // bytes
  std::int64_t num_rows;
  float* c;
  std::int64_t c_step;  // floats
};

LLADA_INLINE PanelRows panel_rows(ConstTensor x, std::int64_t first, std::int64_t num_rows, float* c,
                                  std::int64_t c_step) {
  const std::int64_t x_step = row_bytes(x.dtype, x.cols);
  return {static_cast<const char*>(x.data) + first * x_step, x_step, num_rows, c, c_step};
}

// The inner dimension in blocks that leave the panel's block in a cache while every row passes over it: of few rows,
// which wait for memory, in the L1 cache, so that the L2 cache is free to take in the next one.
template <class Step>
LLADA_INLINE void blocked_product(const PanelRows& rows, const char* panel, std::int64_t num_packs,
                                  typename Step::Element* c) {
  const std::int64_t most = rows.num_rows > 3 * Step::kRows ? 512 : 128;  // packs: 128 or 32 KiB of panel
  for (std::int64_t k = 0; k < num_packs; k += most) {
    const std::int64_t block = num_packs - k < most ? num_packs - k : most;
    const TileInput in{rows.x + 4 * k, rows.x_step, panel + k * kPanel * 4,          4 * kLanes,
                       4 * kPanel,     block,       panel + (k + block) * kPanel * 4};
    tile<Step>(in, rows.num_rows, static_cast<int>(kPanel / kLanes), c, rows.c_step, k > 0);
  }
}

// What a panel gives: the float or integer sums in c, and what is still to be done to them.
struct PanelSums {
  const float* c;
  std::int64_t c_step;
  const float* scales = nullptr;         // of the outputs
  const std::int32_t* shifts = nullptr;  // of integer sums: 128 times the sum of an output's weights
  const char* row_scale = nullptr;       // of the first row
  std::int64_t row_step = 0;

  // Sixteen outputs of a row, finished. (sum - 128 sum of the weights) * (scale of row * scale of output) for int8.
  LLADA_INLINE F32 at(std::int64_t row, std::int64_t i) const {
    const float* from = c + row * c_step + i;
    if (scales == nullptr) return load(from);
    if (shifts == nullptr) return load(from) * load(scales + i);
    float scale;
    std::memcpy(&scale, row_scale + row * row_step, 4);
    const F32 exact = to_float(subtract(load(reinterpret_cast<const std::int32_t*>(from)), load(shifts + i)));
    return exact * (set1(scale) * load(scales + i));
  }
};

// Inputs [k, k + num_wide) of a panel as packs of bfloat16; int8 as they are, int4 times their scales.
LLADA_INLINE void widen_panel(DType dtype, const char* panel, std::int64_t k, std::int64_t num_wide, char* wide) {
  if (dtype == DType::kInt8) {
    for (std::int64_t i = 0; i < num_wide; i += 4)
      for (std::int64_t lane = 0; lane < kPanel; lane += kLanes)
        widen_int8(panel + (k + i) * kPanel + 4 * lane, wide + 2 * i * kPanel + 4 * lane,
                   wide + 2 * (i + 2) * kPanel + 4 * lane);
    return;
  }
  for (std::int64_t i = 0; i < num_wide; i += kGroup) {
    const char* group = panel + inputs_bytes(dtype, k + i);
    for (std::int64_t lane = 0; lane < kPanel; lane += kLanes) {
      const F32 scales = load(reinterpret_cast<const float*>(group) + lane);
      for (std::int64_t pair = 0; pair < kGroup / 2; ++pair)
        widen_int4(group + 4 * kPanel + pair * kPanel + lane, scales, wide + 2 * (i + 2 * pair) * kPanel + 4 * lane);
    }
  }
}

// Rows of T against int8 or int4: a part of the panel is widened once for all rows.
LLADA_INLINE void widened_product(const PanelRows& rows, const PackedWeight& weight, const char* panel, char* wide) {
  for (std::int64_t k = 0; k < weight.num_in; k += kWideInputs) {
    const std::int64_t num_wide = weight.num_in - k < kWideInputs ? weight.num_in - k : kWideInputs;
    widen_panel(weight.dtype, panel, k, num_wide, wide);
    const TileInput in{rows.x + 2 * k,
                       rows.x_step,
                       wide,
                       4 * kLanes,
                       4 * kPanel,
                       (num_wide + 1) / 2,
                       panel + inputs_bytes(weight.dtype, k + num_wide)};
    tile<BFloat16Step>(in, rows.num_rows, static_cast<int>(kPanel / kLanes), rows.c, rows.c_step, k > 0);
  }
}

// wide: kWideBytes of scratch memory. Where both are T, c holds the result as it is.
LLADA_INLINE PanelSums panel_product(const PanelRows& rows, ConstTensor x, const PackedWeight& weight,
                                     std::int64_t panel, char* wide) {
  const char* data = static_cast<const char*>(weight.data) + panel * panel_bytes(weight);
  const std::int64_t num_packs = num_packs_of(weight);
  PanelSums sums{rows.c, rows.c_step};
  if (weight.dtype == DType::kInt8) sums.scales = reinterpret_cast<const float*>(data + num_packs * kPanel * 4);
  if (x.dtype == DType::kInt8) {
    blocked_product<Int8Step>(rows, data, num_packs, reinterpret_cast<std::int32_t*>(rows.c));
    sums.shifts = reinterpret_cast<const std::int32_t*>(sums.scales + kPanel);
    sums.row_scale = rows.x + row_bytes(x.dtype, x.cols) - 4;
    sums.row_step = rows.x_step;
  } else if (weight.dtype != x.dtype) {
    widened_product(rows, weight, data, wide);
  } else if (x.dtype == DType::kBFloat16) {
    blocked_product<BFloat16Step>(rows, data, num_packs, rows.c);
  } else {
    blocked_product<Float32Step>(rows, data, num_packs, rows.c);
  }
  return sums;
}

}  // namespace llada::cpu::LLADA_TABLE
