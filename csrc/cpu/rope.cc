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

// Element (position, dim) of a slot's head: see KvView for the two orders.
template <class T>
LLADA_INLINE void write_head(T* k, T* v, std::int64_t position, const float* key, const float* value,
                             std::int64_t head_dim, std::int64_t v_stride) {
  constexpr std::int64_t pack = 4 / sizeof(T);
  const auto convert = [](float x) {
    if constexpr (pack == 1)
      return x;
    else
      return float_to_bf16(x);
  };
  T* k_tile = k + position / kLanes * kLanes * head_dim + position % kLanes * pack;
  T* v_row = v + position / pack * pack * v_stride + position % pack;
  for (std::int64_t d = 0; d < head_dim; ++d) {
    k_tile[d / pack * kLanes * pack + d % pack] = convert(key[d]);
    v_row[d * pack] = convert(value[d]);
  }
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
    const std::int64_t k_head = head * span.kv.capacity * head_dim;
    const std::int64_t v_head = head * span.kv.capacity * v_stride;
    float* key = reinterpret_cast<float*>(stream.pool->scratch(worker, head_dim * 4));
    for (std::int64_t r = span.row_begin; r < span.row_end; ++r) {
      const float* k_row = static_cast<const float*>(kv.data) + r * kv.cols + head * head_dim;
      const float* v_row = k_row + shape.num_kv_heads * head_dim;
      const float* angle = static_cast<const float*>(angles.data) + positions[r] * angles.cols;
      rotate(k_row, angle, head_dim, [&](std::int64_t i, F32 v, std::int64_t n) { store_n(key + i, v, n); });
      if (dtype == DType::kFloat32)
        write_head<float>(static_cast<float*>(span.kv.k) + k_head, static_cast<float*>(span.kv.v) + v_head,
                          positions[r], key, v_row, head_dim, v_stride);
      else
        write_head<std::uint16_t>(static_cast<std::uint16_t*>(span.kv.k) + k_head,
                                  static_cast<std::uint16_t*>(span.kv.v) + v_head, positions[r], key, v_row, head_dim,
                                  v_stride);
    }
  });
}

}  // namespace llada::cpu::LLADA_TABLE
