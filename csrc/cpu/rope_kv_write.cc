// The only place that writes K and V: K rotated, V as it is.
#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/simd/rotate.h"
#include "cpu/simd/tile.h"

namespace llada::cpu::LLADA_TABLE {
namespace {

// K and V of one head of a slot, in packs of 4 bytes. Sixteen places that share a tile of K make whole cache lines.
struct HeadSlot {
  std::uint32_t* k;
  std::uint32_t* v;
  std::int64_t num_packs;  // of a key
  std::int64_t v_stride;
  DType dtype;

  // keys: (16, num_packs) packs, rotated; values: rows of float32, v_step apart; place: of the first, a multiple of
  // 16.
  LLADA_INLINE void write_tile(std::int64_t place, const std::uint32_t* keys, const float* values, std::int64_t v_step,
                               std::int64_t head_dim) const {
    std::uint32_t* k_tile = k + place * num_packs;
    std::int64_t pack = 0;
    for (; pack + kLanes <= num_packs; pack += kLanes) transpose_packs(keys + pack, num_packs, k_tile + pack * kLanes);
    for (; pack < num_packs; ++pack)
      for (std::int64_t r = 0; r < kLanes; ++r) k_tile[pack * kLanes + r] = keys[r * num_packs + pack];
    if (dtype == DType::kFloat32) {
      float* to = reinterpret_cast<float*>(v) + place * v_stride;
      for (std::int64_t r = 0; r < kLanes; ++r)
        std::memcpy(to + r * v_stride, values + r * v_step, static_cast<std::size_t>(head_dim * 4));
      return;
    }
    for (std::int64_t r = 0; r < kLanes; r += 2) {
      std::uint32_t* to = v + (place + r) / 2 * v_stride;
      for (std::int64_t d = 0; d < head_dim; d += kLanes) {
        const std::int64_t n = lanes_left(d, head_dim);
        store_bf16_pairs(to + d, load_n(values + r * v_step + d, n), load_n(values + (r + 1) * v_step + d, n));
      }
    }
  }

  // One place. V of two bfloat16 places shares its packs: only the half of this one is touched.
  LLADA_INLINE void write_row(std::int64_t place, const std::uint32_t* key, const float* value,
                              std::int64_t head_dim) const {
    std::uint32_t* k_lane = k + place / kLanes * kLanes * num_packs + place % kLanes;
    for (std::int64_t pack = 0; pack < num_packs; ++pack) k_lane[pack * kLanes] = key[pack];
    if (dtype == DType::kFloat32) {
      float* to = reinterpret_cast<float*>(v) + place * v_stride;
      std::memcpy(to, value, static_cast<std::size_t>(head_dim * 4));
      return;
    }
    char* to = reinterpret_cast<char*>(v + place / 2 * v_stride) + place % 2 * 2;
    for (std::int64_t d = 0; d < head_dim; ++d) {
      const std::uint16_t half = float_to_bf16(value[d]);
      std::memcpy(to + 4 * d, &half, 2);
    }
  }
};

// Rows of a span by the tile of 16 keys that the first one's place lies in, if those after it go on from there.
LLADA_INLINE std::int64_t num_tiles_of(const RowSpan& span, const std::int32_t* places) {
  const std::int64_t num_rows = span.row_end - span.row_begin;
  return num_rows > 0 ? (places[span.row_begin] % kLanes + num_rows + kLanes - 1) / kLanes : 0;
}

LLADA_INLINE bool is_whole_tile(const std::int32_t* places, std::int64_t num_rows) {
  bool whole = num_rows == kLanes && places[0] % kLanes == 0;
  for (std::int64_t r = 1; r < num_rows; ++r) whole &= places[r] == places[0] + r;
  return whole;
}

}  // namespace

// A unit of work is a tile of K and a few heads: of its rows it reads some kilobytes in one piece, and it writes whole
// cache lines.
void rope_kv_write(Stream stream, ConstTensor kv, ConstTensor angles, const std::int32_t* positions,
                   const std::int32_t* places, HeadShape shape, DType dtype, const RowSpan* spans,
                   std::int64_t num_spans) {
  constexpr std::int64_t kHeads = 8;  // of a unit
  const std::int64_t head_dim = shape.head_dim;
  const std::int64_t v_stride = (head_dim + kLanes - 1) / kLanes * kLanes;
  const std::int64_t pack = pack_of(dtype);
  const std::int64_t num_packs = head_dim / pack;
  const std::int64_t num_groups = (shape.num_kv_heads + kHeads - 1) / kHeads;
  std::int64_t num_tiles = 0;
  for (std::int64_t s = 0; s < num_spans; ++s) num_tiles += num_tiles_of(spans[s], places);

  parallel_for(*stream.pool, num_tiles * num_groups, [&](std::int64_t unit, int worker) {
    std::int64_t tile = unit / num_groups;
    const RowSpan* span = spans;
    for (; tile >= num_tiles_of(*span, places); ++span) tile -= num_tiles_of(*span, places);
    const std::int64_t begin = span->row_begin + tile * kLanes - places[span->row_begin] % kLanes;
    const std::int64_t end = begin + kLanes < span->row_end ? begin + kLanes : span->row_end;
    const std::int64_t first = begin < span->row_begin ? span->row_begin : begin;
    const std::int64_t num_rows = end - first;
    const bool whole = is_whole_tile(places + first, num_rows);

    std::uint32_t* keys = reinterpret_cast<std::uint32_t*>(stream.pool->scratch(worker, kLanes * num_packs * 4));
    const std::int64_t first_head = unit % num_groups * kHeads;
    const std::int64_t end_head = first_head + kHeads < shape.num_kv_heads ? first_head + kHeads : shape.num_kv_heads;
    for (std::int64_t head = first_head; head < end_head; ++head) {
      const float* k_rows = static_cast<const float*>(kv.data) + first * kv.cols + head * head_dim;
      const float* v_rows = k_rows + shape.num_kv_heads * head_dim;
      const HeadSlot slot{static_cast<std::uint32_t*>(span->kv.k) + head * span->kv.capacity * num_packs,
                          static_cast<std::uint32_t*>(span->kv.v) + head * span->kv.capacity / pack * v_stride,
                          num_packs, v_stride, dtype};
      for (std::int64_t r = 0; r < num_rows; ++r) {
        prefetch_floats(k_rows + r * kv.cols + head_dim, head_dim);  // of the next head
        prefetch_floats(v_rows + r * kv.cols + head_dim, head_dim);
        const float* angle = static_cast<const float*>(angles.data) + positions[first + r] * angles.cols;
        const Row key = row_of(keys, dtype, r, head_dim);
        rotate(k_rows + r * kv.cols, angle, head_dim,
               [&](std::int64_t i, F32 x, std::int64_t n) { key.store(i, x, n); });
        if (!whole) slot.write_row(places[first + r], keys + r * num_packs, v_rows + r * kv.cols, head_dim);
      }
      if (whole) slot.write_tile(places[first], keys, v_rows, kv.cols, head_dim);
    }
  });
}

}  // namespace llada::cpu::LLADA_TABLE
