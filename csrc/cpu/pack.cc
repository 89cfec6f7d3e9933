// Weights from the order of a checkpoint into the panels of ops/ops.h.
#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/simd/panel.h"

namespace llada::cpu::LLADA_TABLE {
namespace {

constexpr std::int64_t kBlock = 64;  // inputs: 16 KiB of a float32 panel

// By memcpy throughout: a checkpoint file promises no alignment.
LLADA_INLINE float float_at(const ConstTensor& t, std::int64_t index) {
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

LLADA_INLINE float scale_at(const StoredWeight& weight, std::int64_t index) {
  float scale;
  std::memcpy(&scale, static_cast<const char*>(weight.scales) + 4 * index, 4);
  return scale;
}

// Row of the stored matrix in a lane of a panel, or -1 for padding.
LLADA_INLINE std::int64_t row_of_lane(const PackedWeight& form, std::int64_t panel, std::int64_t lane) {
  constexpr std::int64_t kHalf = kPanel / 2;
  if (!form.paired) {
    const std::int64_t row = panel * kPanel + lane;
    return row < form.num_out ? row : -1;
  }
  const std::int64_t row = panel * kHalf + lane % kHalf;
  return row >= form.num_out / 2 ? -1 : lane < kHalf ? row : form.num_out / 2 + row;
}

// What goes from a stored row to a lane of a panel: columns [begin, end).
struct Piece {
  std::int64_t row;
  std::int64_t lane;
  std::int64_t begin;
  std::int64_t end;
};

// Whole packs of the type they have already. False if an exponent is all ones.
bool copy_packs(const ConstTensor& from, const Piece& piece, std::int64_t num_packs, char* out) {
  const std::int64_t pack = pack_of(from.dtype);
  const char* at = static_cast<const char*>(from.data) + (piece.row * from.cols + piece.begin) * size_of(from.dtype);
  char* to = out + (piece.begin / pack * kPanel + piece.lane) * 4;
  const std::uint32_t high = 0x7f800000u, low = from.dtype == DType::kBFloat16 ? 0x7f80u : ~0u;
  bool finite = true;
  for (std::int64_t i = 0; i < num_packs; ++i, at += 4, to += kPanel * 4) {
    std::uint32_t bits;
    std::memcpy(&bits, at, 4);
    finite &= (bits & high) != high && (bits & low) != low;
    std::memcpy(to, &bits, 4);
  }
  return finite;
}

// A full panel of rows that need no rounding, which is what most of a load is: blocks of 16 x 16 packs are transposed,
// so that whole cache lines are read and written. False if an exponent is all ones.
bool copy_panel(const ConstTensor& from, const PackedWeight& form, std::int64_t panel, char* out) {
  const std::int64_t num_packs = num_packs_of(form);
  const std::uint32_t high = 0x7f800000u, low = from.dtype == DType::kBFloat16 ? 0x7f80u : ~0u;
  std::uint32_t bad = 0;  // one sum and no branch, for the compiler to use whole vectors
  alignas(64) std::uint32_t rows[kLanes * kLanes], columns[kLanes * kLanes];
  for (std::int64_t lane = 0; lane < kPanel; lane += kLanes) {
    const char* at = static_cast<const char*>(from.data) + row_of_lane(form, panel, lane) * num_packs * 4;
    char* to = out + lane * 4;
    for (std::int64_t k = 0; k < num_packs; k += kLanes, at += 4 * kLanes, to += kLanes * kPanel * 4) {
      for (int r = 0; r < kLanes; ++r) std::memcpy(rows + r * kLanes, at + r * num_packs * 4, 4 * kLanes);
      for (const std::uint32_t bits : rows)
        bad |= static_cast<std::uint32_t>((bits & high) == high) | static_cast<std::uint32_t>((bits & low) == low);
      transpose_packs(rows, kLanes, columns);
      for (int i = 0; i < kLanes; ++i) std::memcpy(to + i * kPanel * 4, columns + i * kLanes, 4 * kLanes);
    }
  }
  return bad == 0;
}

bool pack_floats(const ConstTensor& from, const Piece& piece, DType dtype, char* out) {
  const auto [row, lane, begin, end] = piece;
  const std::int64_t pack = pack_of(dtype);
  const std::int64_t num_copied = from.dtype == dtype ? (end - begin) / pack : 0;
  bool finite = copy_packs(from, piece, num_copied, out);
  for (std::int64_t k = begin + num_copied * pack; k < end; ++k) {
    float value = float_at(from, row * from.cols + k);
    if (dtype == DType::kBFloat16) value = bf16_to_float(float_to_bf16(value));
    finite &= (bits_of(value) & 0x7f800000u) != 0x7f800000u;
    const std::int64_t index = ((k / pack) * kPanel + lane) * pack + k % pack;
    if (dtype == DType::kFloat32)
      reinterpret_cast<float*>(out)[index] = value;
    else
      reinterpret_cast<std::uint16_t*>(out)[index] = static_cast<std::uint16_t>(bits_of(value) >> 16);
  }
  return finite;
}

void pack_int8(const StoredWeight& weight, const Piece& piece, std::int64_t num_packs, char* out) {
  const auto [row, lane, begin, end] = piece;
  const char* from = static_cast<const char*>(weight.values.data) + row * weight.values.cols;
  std::int32_t sum = 0;
  for (std::int64_t k = begin; k < end; ++k) {
    sum += static_cast<signed char>(from[k]);
    out[(k / 4 * kPanel + lane) * 4 + k % 4] = from[k];
  }
  float* scales = reinterpret_cast<float*>(out + num_packs * kPanel * 4);
  scales[lane] = scale_at(weight, row);
  reinterpret_cast<std::int32_t*>(scales + kPanel)[lane] += 128 * sum;
}

void pack_int4(const StoredWeight& weight, const Piece& piece, char* out) {
  const auto [row, lane, begin, end] = piece;
  const std::int64_t cols = weight.values.cols;
  const std::int64_t num_groups = (cols + kGroup - 1) / kGroup;
  const char* from = static_cast<const char*>(weight.values.data) + row * bytes_of(DType::kInt4, cols);
  for (std::int64_t k = begin; k < end; k += 2) {
    char* group = out + k / kGroup * kInt4GroupBytes;
    if (k % kGroup == 0) reinterpret_cast<float*>(group)[lane] = scale_at(weight, row * num_groups + k / kGroup);
    group[4 * kPanel + k % kGroup / 2 * kPanel + lane] = from[k / 2];
  }
}

}  // namespace

std::int64_t packed_bytes(const PackedWeight& form) { return num_panels_of(form) * panel_bytes(form); }

bool pack(Stream stream, const StoredWeight& weight, const PackedWeight& form, void* packed) {
  bool finite = true;
  const std::int64_t pack = pack_of(form.dtype);
  const bool as_they_are =
      is_float(form.dtype) && weight.values.dtype == form.dtype && form.num_in % (kLanes * pack) == 0;
  parallel_for(*stream.pool, num_panels_of(form), [&](std::int64_t panel, int) {
    char* out = static_cast<char*>(packed) + panel * panel_bytes(form);
    // Lanes past the outputs are the last ones of a half or of the whole.
    if (as_they_are && row_of_lane(form, panel, kPanel / 2 - 1) >= 0 && row_of_lane(form, panel, kPanel - 1) >= 0) {
      if (!copy_panel(weight.values, form, panel, out)) __atomic_store_n(&finite, false, __ATOMIC_RELAXED);
      return;
    }
    // Padding counts as zero: 0x88 are two zeros of int4 (and as a scale some finite number).
    std::memset(out, form.dtype == DType::kInt4 ? 0x88 : 0, static_cast<std::size_t>(panel_bytes(form)));
    // In blocks of the inner dimension that stay in the L1 cache while the lanes are filled one by one.
    for (std::int64_t k = 0; k < form.num_in; k += kBlock) {
      for (std::int64_t lane = 0; lane < kPanel; ++lane) {
        const Piece piece{row_of_lane(form, panel, lane), lane, k, k + kBlock < form.num_in ? k + kBlock : form.num_in};
        if (piece.row < 0) continue;
        if (form.dtype == DType::kInt8)
          pack_int8(weight, piece, num_packs_of(form), out);
        else if (form.dtype == DType::kInt4)
          pack_int4(weight, piece, out);
        else if (!pack_floats(weight.values, piece, form.dtype, out))
          __atomic_store_n(&finite, false, __ATOMIC_RELAXED);
      }
    }
  });
  return finite;
}

}  // namespace llada::cpu::LLADA_TABLE
