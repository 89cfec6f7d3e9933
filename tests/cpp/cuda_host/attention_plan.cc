// The door to the plan of attention, for its tests.
#include "cuda/attention/plan.h"

// spans: (num_spans, 4) of row_begin, row_end, visible, capacity.
// facts: num_items, lines, rows_of_tile, heads_of_tile, head_parts, out_parts, split, shared bytes.
// items: (room, 6) of row_begin, num_rows, key_begin, key_end, first_item, num_chunks. Returns whether there was room.
extern "C" __attribute__((visibility("default"))) bool llada_plan_attention(
    const std::int64_t* spans, std::int64_t num_spans, std::int64_t num_heads, std::int64_t num_kv_heads,
    std::int64_t head_dim, bool float32, std::int64_t shared_bytes, std::int64_t* facts, std::int32_t* items,
    std::size_t room) {
  using namespace llada;
  std::vector<RowSpan> row_spans;
  for (std::int64_t s = 0; s < num_spans; ++s, spans += 4)
    row_spans.push_back({spans[0], spans[1], spans[2], {nullptr, nullptr, spans[3]}});
  const DType dtype = float32 ? DType::kFloat32 : DType::kBFloat16;
  cuda::AttentionPlan plan;
  cuda::plan_attention(row_spans.data(), num_spans, {num_heads, num_kv_heads, head_dim}, dtype, shared_bytes, plan);
  const std::int64_t found[] = {static_cast<std::int64_t>(plan.items.size()),
                                plan.lines,
                                plan.rows_of_tile,
                                plan.heads_of_tile,
                                plan.head_parts,
                                plan.out_parts,
                                plan.split,
                                cuda::attention_shared_bytes(dtype, head_dim, plan.lines)};
  std::copy(std::begin(found), std::end(found), facts);
  if (plan.items.size() > room) return false;
  for (const cuda::AttentionItem& item : plan.items)
    for (const std::int32_t value :
         {item.row_begin, item.num_rows, item.key_begin, item.key_end, item.first_item, item.num_chunks})
      *items++ = value;
  return true;
}
