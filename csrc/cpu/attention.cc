// Ragged bidirectional attention over slots: query rows in groups against tiles of 64 keys, with an online softmax, so
// that no score matrix beyond a tile exists. A unit of work is one K/V head and a few rows of one span, with all query
// heads of the group, which share the loads of K and V.
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "cpu/bands.h"
#include "cpu/kernels.h"
#include "cpu/simd/math.h"
#include "cpu/simd/tile.h"

namespace llada::cpu::LLADA_TABLE {
namespace {

constexpr std::int64_t kQueryLines = 48;  // (row, query head) pairs of a unit
constexpr float kNone = -std::numeric_limits<float>::infinity();

// Scratch of one unit; a line is one query head of one row.
struct Lines {
  char* q;         // (lines, head_dim) in T
  float* scores;   // (lines, 64)
  char* p;         // (lines, 64) in T
  float* out;      // (lines, v_stride)
  float* largest;  // (lines)
  float* total;    // (lines)
};

LLADA_INLINE std::int64_t line_bytes(std::int64_t head_dim, std::int64_t v_stride) {
  return (head_dim + kPanel + kPanel + v_stride + 2) * 4;
}

LLADA_INLINE Lines carve(char* memory, std::int64_t head_dim, std::int64_t v_stride) {
  Lines lines;
  float* at = reinterpret_cast<float*>(memory);
  const auto take = [&](std::int64_t floats) {
    float* begin = at;
    at += floats * kQueryLines;
    return begin;
  };
  lines.scores = take(kPanel);
  lines.out = take(v_stride);
  lines.q = reinterpret_cast<char*>(take(head_dim));
  lines.p = reinterpret_cast<char*>(take(kPanel));
  lines.largest = take(1);
  lines.total = take(1);
  return lines;
}

// Folds the scores of one tile into the running softmax of a line and leaves exp(score - largest) in `p`.
LLADA_INLINE void fold_tile(const Lines& lines, std::int64_t line, std::int64_t num_keys, float scale,
                            std::int64_t v_stride, DType dtype) {
  float* scores = lines.scores + line * kPanel;
  F32 best = set1(kNone);
  for (std::int64_t i = 0; i < num_keys; i += kLanes) {
    const std::int64_t n = lanes_left(i, num_keys);
    const F32 s = load(scores + i) * set1(scale);
    store(scores + i, s);
    if (n < kLanes) {
      for (std::int64_t j = n; j < kLanes; ++j) scores[i + j] = kNone;
    }
    best = max(best, load(scores + i));
  }
  const float before = lines.largest[line];
  const float largest = max_of(max(best, set1(before)));
  if (largest > before) {
    lines.largest[line] = largest;
    // exp(-inf) = 0 for the first tile: total and out start at zero anyway.
    float factor[kLanes];
    store(factor, exp(set1(before - largest)));
    lines.total[line] *= factor[0];
    float* out = lines.out + line * v_stride;
    for (std::int64_t d = 0; d < v_stride; d += kLanes) store(out + d, load(out + d) * set1(factor[0]));
  }
  const Row p = row_of(lines.p, dtype, line, kPanel);
  F32 total = zero();
  for (std::int64_t i = 0; i < num_keys; i += kLanes) {
    const F32 e = exp(load(scores + i) - set1(largest));
    total = total + e;
    p.store(i, e, kLanes);  // lanes past num_keys hold 0: the second half of a last pair
  }
  lines.total[line] += sum(total);
}

}  // namespace

void attention(Stream stream, ConstTensor q, HeadShape shape, const RowSpan* spans, std::int64_t num_spans,
               Tensor out) {
  const std::int64_t head_dim = shape.head_dim;
  const std::int64_t group = shape.num_heads / shape.num_kv_heads;
  const std::int64_t v_stride = (head_dim + kLanes - 1) / kLanes * kLanes;
  const std::int64_t pack = pack_of(q.dtype);
  const std::int64_t element = size_of(q.dtype);
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  const std::int64_t rows_of_unit = kQueryLines / group > 0 ? kQueryLines / group : 1;
  const std::int64_t heads_of_unit = group < kQueryLines ? group : kQueryLines;
  const std::int64_t head_parts = (group + heads_of_unit - 1) / heads_of_unit;

  const auto chunks = [&](const RowSpan& span) {
    return (span.row_end - span.row_begin + rows_of_unit - 1) / rows_of_unit;
  };
  std::int64_t num_chunks = 0;
  for (std::int64_t s = 0; s < num_spans; ++s) num_chunks += chunks(spans[s]);

  // K and V of a head stay in the cache of a core for all chunks of its band.
  const Bands bands(num_chunks, shape.num_kv_heads * head_parts, stream.pool->num_threads(), num_chunks);
  parallel_for(*stream.pool, bands.num_units(), [&](std::int64_t unit, int worker) {
    const auto [block, column] = bands.at(unit);
    const std::int64_t part = column % head_parts;
    const std::int64_t kv_head = column / head_parts;
    std::int64_t chunk = block;
    const RowSpan* span = spans;
    for (; chunk >= chunks(*span); ++span) chunk -= chunks(*span);
    const std::int64_t row = span->row_begin + chunk * rows_of_unit;
    const std::int64_t num_rows = span->row_end - row < rows_of_unit ? span->row_end - row : rows_of_unit;
    const std::int64_t first_head = kv_head * group + part * heads_of_unit;
    const std::int64_t end_head = (kv_head + 1) * group;
    const std::int64_t num_heads = end_head - first_head < heads_of_unit ? end_head - first_head : heads_of_unit;
    const std::int64_t num_lines = num_rows * num_heads;

    const Lines lines =
        carve(stream.pool->scratch(worker, kQueryLines * line_bytes(head_dim, v_stride)), head_dim, v_stride);
    for (std::int64_t line = 0; line < num_lines; ++line) {
      const std::int64_t index = (row + line / num_heads) * q.cols + (first_head + line % num_heads) * head_dim;
      __builtin_memcpy(lines.q + line * head_dim * element, static_cast<const char*>(q.data) + index * element,
                       static_cast<std::size_t>(head_dim * element));
      lines.largest[line] = kNone;
      lines.total[line] = 0;
      for (std::int64_t d = 0; d < v_stride; ++d) lines.out[line * v_stride + d] = 0;
    }

    const char* k_head = static_cast<const char*>(span->kv.k) + kv_head * span->kv.capacity * head_dim * element;
    const char* v_head = static_cast<const char*>(span->kv.v) + kv_head * span->kv.capacity * v_stride * element;
    const char* next_head = k_head + span->kv.capacity * head_dim * element;
    for (std::int64_t key = 0; key < span->visible; key += kPanel) {
      const std::int64_t num_keys = span->visible - key < kPanel ? span->visible - key : kPanel;
      const int key_vectors = static_cast<int>((num_keys + kLanes - 1) / kLanes);
      const TileInput qk{lines.q,    head_dim * element, k_head + key * head_dim * element, kLanes * head_dim * element,
                         4 * kLanes, head_dim / pack,    v_head + key * v_stride * element};
      tile(q.dtype, qk, num_lines, key_vectors, lines.scores, kPanel, false);
      for (std::int64_t line = 0; line < num_lines; ++line) fold_tile(lines, line, num_keys, scale, v_stride, q.dtype);
      const TileInput pv{lines.p,
                         kPanel * element,
                         v_head + key * v_stride * element,
                         4 * kLanes,
                         4 * v_stride,
                         (num_keys + pack - 1) / pack,
                         key + kPanel < span->visible ? k_head + (key + kPanel) * head_dim * element : next_head};
      tile(q.dtype, pv, num_lines, static_cast<int>(v_stride / kLanes), lines.out, v_stride, true);
    }

    for (std::int64_t line = 0; line < num_lines; ++line) {
      const std::int64_t index = (row + line / num_heads) * out.cols + (first_head + line % num_heads) * head_dim;
      const Row to = row_of(out.data, out.dtype, 0, 0);
      const F32 inverse = set1(1.0f / lines.total[line]);
      for (std::int64_t d = 0; d < head_dim; d += kLanes)
        to.store(index + d, load(lines.out + line * v_stride + d) * inverse, lanes_left(d, head_dim));
    }
  });
}

}  // namespace llada::cpu::LLADA_TABLE
