// Rotary position embedding, and the only place that writes K and V.
#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/simd/math.h"
#include "cpu/simd/tile.h"

namespace llada::cpu::LLADA_TABLE {
namespace {

// Rotates one head: out[i] = x1 cos - x2 sin, out[half + i] = x2 cos + x1 sin, handed to put(i, lanes, n).
template <class Put>
LLADA_INLINE void rotate(const float* x, const float* angle, std::int64_t head_dim, const Put& put) {
  const std::int64_t half = head_dim / 2;
  for (std::int64_t i = 0; i < half; i += kLanes) {
    const std::int64_t n = lanes_left(i, half);
    const F32 x1 = load_n(x + i, n), x2 = load_n(x + half + i, n);
    const F32 cos = load_n(angle + i, n), sin = load_n(angle + half + i, n);
    put(i, x1 * cos - x2 * sin, n);
    put(half + i, x2 * cos + x1 * sin, n);
  }
}

// Puts a row of one head into its slot, in the order of KvView: a pack of K is 4 bytes and 16 packs from the next.
LLADA_INLINE void write_float32(float* k, float* v, std::int64_t position, const float* key, const float* value,
                                std::int64_t head_dim, std::int64_t v_stride) {
  float* k_tile = k + position / kLanes * kLanes * head_dim + position % kLanes;
  for (std::int64_t d = 0; d < head_dim; ++d) k_tile[d * kLanes] = key[d];
  std::memcpy(v + position * v_stride, value, static_cast<std::size_t>(head_dim * 4));
}

// V of two positions shares its packs: the other half stays.
LLADA_INLINE void write_bfloat16(std::uint32_t* k, std::uint32_t* v, std::int64_t position, const std::uint16_t* key,
                                 const std::uint16_t* value, std::int64_t head_dim, std::int64_t v_stride) {
  std::uint32_t* k_tile = k + position / kLanes * kLanes * (head_dim / 2) + position % kLanes;
  for (std::int64_t d = 0; d < head_dim / 2; ++d) std::memcpy(k_tile + d * kLanes, key + 2 * d, 4);
  std::uint32_t* v_row = v + position / 2 * v_stride;
  const int shift = position % 2 * 16;
  const std::uint32_t kept = 0xffff0000u >> shift;
  for (std::int64_t d = 0; d < head_dim; ++d) v_row[d] = (v_row[d] & kept) | std::uint32_t{value[d]} << shift;
}

}  // namespace

void rope(Stream stream, ConstTensor x, ConstTensor angles, const std::int32_t* positions, std::int64_t head_dim,
          Tensor out) {
  parallel_for(*stream.pool, x.rows, [&](std::int64_t r, int) {
    const float* angle = static_cast<const float*>(angles.data) + positions[r] * angles.cols;
    const Row to = row_of(out.data, out.dtype, r, out.cols);
    for (std::int64_t head = 0; head < x.cols; head += head_dim) {
      const float* from = static_cast<const float*>(x.data) + r * x.cols + head;
      rotate(from, angle, head_dim, [&](std::int64_t i, F32 v, std::int64_t n) { to.store(head + i, v, n); });
    }
  });
}

void rope_kv_write(Stream stream, ConstTensor kv, ConstTensor angles, const std::int32_t* positions, HeadShape shape,
                   DType dtype, const RowSpan* spans, std::int64_t num_spans) {
  const std::int64_t head_dim = shape.head_dim;
  const std::int64_t v_stride = (head_dim + kLanes - 1) / kLanes * kLanes;
  parallel_for(*stream.pool, num_spans * shape.num_kv_heads, [&](std::int64_t unit, int worker) {
    const RowSpan& span = spans[unit / shape.num_kv_heads];
    const std::int64_t head = unit % shape.num_kv_heads;
    // Both types count in units of 4 bytes: a pack.
    const std::int64_t pack = pack_of(dtype);
    const std::int64_t k_head = head * span.kv.capacity * (head_dim / pack);
    const std::int64_t v_head = head * span.kv.capacity / pack * v_stride;
    const Row key{stream.pool->scratch(worker, 2 * head_dim * 4), dtype};
    const Row value{key.data + head_dim * 4, dtype};
    for (std::int64_t r = span.row_begin; r < span.row_end; ++r) {
      const float* k_row = static_cast<const float*>(kv.data) + r * kv.cols + head * head_dim;
      const float* v_row = k_row + shape.num_kv_heads * head_dim;
      const float* angle = static_cast<const float*>(angles.data) + positions[r] * angles.cols;
      rotate(k_row, angle, head_dim, [&](std::int64_t i, F32 x, std::int64_t n) { key.store(i, x, n); });
      for (std::int64_t i = 0; i < head_dim; i += kLanes) {
        const std::int64_t n = lanes_left(i, head_dim);
        value.store(i, load_n(v_row + i, n), n);
      }
      if (dtype == DType::kFloat32)
        write_float32(static_cast<float*>(span.kv.k) + k_head, static_cast<float*>(span.kv.v) + v_head, positions[r],
                      reinterpret_cast<const float*>(key.data), reinterpret_cast<const float*>(value.data), head_dim,
                      v_stride);
      else
        write_bfloat16(static_cast<std::uint32_t*>(span.kv.k) + k_head, static_cast<std::uint32_t*>(span.kv.v) + v_head,
                       positions[r], reinterpret_cast<const std::uint16_t*>(key.data),
                       reinterpret_cast<const std::uint16_t*>(value.data), head_dim, v_stride);
    }
  });
}

}  // namespace llada::cpu::LLADA_TABLE
