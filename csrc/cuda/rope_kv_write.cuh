// The only place that writes K and V: K rotated, V as it is, and with them the rotated Q of rope_kvq.
#pragma once

#include "cuda/rope.cuh"
#include "ops/ops.h"

namespace llada::cuda {

struct RopeKvArgs {
  const float* kvq;               // (rows, row_values): K, V and, if there are query heads, Q
  const float* angles;            // as of RopeArgs
  const std::int32_t* positions;  // (rows)
  const std::int32_t* places;     // (rows)
  const RowSpan* spans;           // (num_spans)
  void* queries;                  // (rows, num_heads * head_dim) in T
  std::int64_t row_values;
  std::int32_t num_rows;
  std::int32_t num_spans;
  std::int32_t num_heads;  // 0: no queries
  std::int32_t num_kv_heads;
  std::int32_t head_dim;
  DType dtype;
};

// The span that has the row, nullptr if none has: rows that fill up a batch. All lanes of a warp look together.
__device__ __forceinline__ const RowSpan* span_of(const RowSpan* spans, int num_spans, std::int64_t row) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int begin = 0; begin < num_spans; begin += 32) {
    const int s = begin + lane;
    const bool has = s < num_spans && spans[s].row_begin <= row && row < spans[s].row_end;
    const unsigned found = __ballot_sync(~0u, has);
    if (found != 0) return spans + begin + __popc((found & -found) - 1);
  }
  return nullptr;
}

// Slots are [num_kv_heads][capacity][head_dim] for K and for V. A thread has eight values: of K first, then of V, then
// of Q.
template <class T>
__global__ void __launch_bounds__(kRopeThreads) rope_kv_kernel(RopeKvArgs args) {
  begin_kernel();
  const std::int64_t r = blockIdx.x;
  const RowSpan* span = span_of(args.spans, args.num_spans, r);
  const int unit = static_cast<int>(blockIdx.y * kRopeThreads + threadIdx.x);
  const int units = args.head_dim / 8;  // of a head
  const int head = unit / units;        // of all that are in the row
  if (head >= 2 * args.num_kv_heads + args.num_heads) return;
  const float* const from = args.kvq + r * args.row_values + static_cast<std::int64_t>(head) * args.head_dim;
  const float* const angle = args.angles + std::int64_t{args.positions[r]} * args.head_dim;
  const int quad = unit % units * 4;
  if (head >= 2 * args.num_kv_heads) {
    const std::int64_t query_head = head - 2 * args.num_kv_heads;
    T* const to = static_cast<T*>(args.queries) + (r * args.num_heads + query_head) * args.head_dim;
    rotate_quads(from, angle, quad, args.head_dim, to);
    return;
  }
  if (span == nullptr) return;
  const bool is_value = head >= args.num_kv_heads;
  const std::int64_t kv_head = is_value ? head - args.num_kv_heads : head;
  const std::int64_t to = (kv_head * span->kv.capacity + args.places[r]) * args.head_dim;
  if (is_value) {
    T* v = static_cast<T*>(span->kv.v) + to;
    const int i = 2 * quad;
    store_quad(v, i, args.head_dim, load_quad(from, i, args.head_dim));
    store_quad(v, i + 4, args.head_dim, load_quad(from, i + 4, args.head_dim));
  } else {
    rotate_quads(from, angle, quad, args.head_dim, static_cast<T*>(span->kv.k) + to);
  }
}

}  // namespace llada::cuda
