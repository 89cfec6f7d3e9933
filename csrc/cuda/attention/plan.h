// Which blocks of threads attention has: tiles of query rows, and whether the keys of a tile go to one block or to
// several. A pure function of shapes, apart from the pointers that it hands on.
//
// A line is one query head of one row. A tile has lines of one span and one K/V head: all query heads of that K/V head,
// so that they share its loads. Keys come in chunks of 128, each with a softmax of its own. Chunks are joined in
// ascending order, by the block that saw all chunks, or by the last of the blocks that saw one each. Either way the
// bits are the same: the number of blocks may depend on the batch, the result of a row may not.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "ops/ops.h"

namespace llada::cuda {

constexpr std::int32_t kAttentionChunk = 128;  // keys
// Most bytes for the results of single chunks. Each result has a maximum and a sum beside 32 values or more.
constexpr std::int64_t kMostPartialBytes = std::int64_t{64} << 20;

// Rows of a span against some of its keys, for one block of threads of each K/V head.
struct AttentionItem {
  const void* k;
  const void* v;
  std::int64_t capacity;
  std::int32_t row_begin;
  std::int32_t num_rows;  // 0: nothing to do
  std::int32_t key_begin;
  std::int32_t key_end;
  std::int32_t first_item;  // of the items [first_item, first_item + num_chunks) whose chunks are joined
  std::int32_t num_chunks;
};

struct AttentionPlan {
  std::int32_t lines = 0;          // of a tile
  std::int32_t rows_of_tile = 0;   // lines / heads_of_tile
  std::int32_t heads_of_tile = 0;  // of the query heads that share a K/V head
  std::int32_t head_parts = 0;     // tiles that it takes to have all of them
  std::int32_t out_parts = 0;      // blocks that share the columns of a head
  bool split = false;              // an item is one chunk of a tile; else it is a tile
  std::vector<AttentionItem> items;
};

// Heads are filled up with zeros to one of four sizes; of the largest, two blocks share the columns of the result.
constexpr std::int32_t attention_head_dim(std::int64_t head_dim) {
  return head_dim <= 32 ? 32 : head_dim <= 64 ? 64 : head_dim <= 128 ? 128 : 256;
}
constexpr std::int32_t attention_out_dim(std::int64_t head_dim) { return std::min(attention_head_dim(head_dim), 128); }

// Keys that are in shared memory at a time, twice.
constexpr std::int32_t attention_keys(DType dtype, std::int64_t head_dim) {
  return dtype == DType::kFloat32 || head_dim > 128 ? 32 : 64;
}

// The shared memory of one block: queries, in float32 the exponentials of a tile, two stages of keys and values. Rows
// have 16 bytes more than they need, so that neighbours lie in different banks.
constexpr std::int32_t attention_shared_bytes(DType dtype, std::int64_t head_dim, std::int32_t lines) {
  const std::int32_t size = dtype == DType::kFloat32 ? 4 : 2, keys = attention_keys(dtype, head_dim);
  const std::int32_t key_step = attention_head_dim(head_dim) * size + 16;
  const std::int32_t value_step = attention_out_dim(head_dim) * size + 16;
  return lines * (key_step + (size == 4 ? keys * 4 : 0)) + 2 * keys * (key_step + value_step);
}

// Chunks that a span has blocks for. `visible` grows from block to block of an answer; a graph serves until four more
// chunks are needed, and as long as the slot lasts.
inline std::int64_t attention_chunks(const RowSpan& span) {
  const auto chunks = [](std::int64_t keys) { return (keys + kAttentionChunk - 1) / kAttentionChunk; };
  return std::min(chunks(span.kv.capacity), (chunks(span.visible) + 3) / 4 * 4);
}

// The count of items is rounded up to eights with empty ones, so that steps have few shapes.
// shared_bytes: what the device lets a block have.
inline void plan_attention(const RowSpan* spans, std::int64_t num_spans, HeadShape shape, DType dtype,
                           std::int64_t shared_bytes, AttentionPlan& plan) {
  constexpr std::int64_t kFewBlocks = 80;  // fewer leave much of a GPU of 132 multiprocessors idle
  const std::int64_t group = shape.num_heads / shape.num_kv_heads;
  std::int64_t longest = 0;
  for (std::int64_t s = 0; s < num_spans; ++s) longest = std::max(longest, spans[s].row_end - spans[s].row_begin);
  std::int32_t lines = dtype == DType::kFloat32 || longest * group <= 32 ? 32 : longest * group <= 64 ? 64 : 128;
  while (lines > 32 && attention_shared_bytes(dtype, shape.head_dim, lines) > shared_bytes) lines /= 2;
  const std::int64_t heads = std::min<std::int64_t>(group, lines), rows = lines / heads;
  const std::int64_t out_dim = attention_out_dim(shape.head_dim);
  plan.lines = lines;
  plan.heads_of_tile = static_cast<std::int32_t>(heads);
  plan.rows_of_tile = static_cast<std::int32_t>(rows);
  plan.head_parts = static_cast<std::int32_t>((group + heads - 1) / heads);
  plan.out_parts = static_cast<std::int32_t>((shape.head_dim + out_dim - 1) / out_dim);

  std::int64_t num_tiles = 0, num_chunks = 0, most_chunks = 0;
  for (std::int64_t s = 0; s < num_spans; ++s) {
    const std::int64_t tiles = (spans[s].row_end - spans[s].row_begin + rows - 1) / rows;
    num_tiles += tiles;
    num_chunks += tiles * attention_chunks(spans[s]);
    most_chunks = std::max(most_chunks, attention_chunks(spans[s]));
  }
  const std::int64_t blocks_of_item = shape.num_kv_heads * plan.head_parts * plan.out_parts;
  plan.split = most_chunks > 1 && num_tiles * blocks_of_item < kFewBlocks &&
               num_chunks * blocks_of_item * lines * out_dim * 4 <= kMostPartialBytes;

  plan.items.clear();
  for (std::int64_t s = 0; s < num_spans; ++s) {
    const RowSpan& span = spans[s];
    for (std::int64_t row = span.row_begin; row < span.row_end; row += rows) {
      const auto num_rows = static_cast<std::int32_t>(std::min(rows, span.row_end - row));
      const auto visible = static_cast<std::int32_t>(span.visible);
      const auto first_item = static_cast<std::int32_t>(plan.items.size());
      AttentionItem item{span.kv.k,  span.kv.v, span.kv.capacity, static_cast<std::int32_t>(row), num_rows, 0, visible,
                         first_item, 1};
      if (!plan.split) {
        plan.items.push_back(item);
        continue;
      }
      item.num_chunks = (visible + kAttentionChunk - 1) / kAttentionChunk;
      for (std::int64_t chunk = 0; chunk < attention_chunks(span); ++chunk) {
        item.key_begin = static_cast<std::int32_t>(chunk) * kAttentionChunk;
        item.key_end = std::min(item.key_begin + kAttentionChunk, visible);
        plan.items.push_back(item.key_begin < visible ? item : AttentionItem{});
      }
    }
  }
  plan.items.resize((plan.items.size() + 7) / 8 * 8, AttentionItem{});
}

}  // namespace llada::cuda
