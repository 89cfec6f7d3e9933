// What the attention kernels of both types share: how keys and values come to shared memory, how the softmaxes of
// chunks of keys become one, and how the last block of a tile joins the results of all. plan.h has the blocks.
//
// With the 32 rows of a block of masks K and V are read once, and memory bounds the kernel: 16-byte copies for two
// tiles of keys are under way from the first instruction on, and chunks of 128 keys give 128 blocks for 32 heads and
// 512 keys. With the rows of a whole canvas the products bound the kernel.
//
// On sm_90a refreshes would gain from wgmma, which multiplies straight from shared memory: two warpgroups with 64 lines
// each and one warp that fetches by TMA (a 3-D tensor map for each slot and layer: head_dim, capacity, head; boxes of
// 64 keys with the 128-byte swizzle, so the padding of rows goes), full and empty mbarriers in the place of
// __syncthreads, scores of the next tile under way while this one's exponentials are taken. Chunks and how they are
// joined would stay. For steps the chunks of a tile could be a cluster of blocks that join through each other's shared
// memory: no sums in device memory.
#pragma once

#include <type_traits>

#include "cuda/attention/plan.h"
#include "cuda/device/instructions.cuh"
#include "cuda/rows.cuh"

namespace llada::cuda {

struct AttentionArgs {
  const void* q;  // (rows, num_heads * head_dim) in T
  void* out;      // like q, in out_dtype
  const AttentionItem* items;
  float* sums;            // of chunks: (items, blocks_of_item, lines, out_dim), not yet divided
  float2* states;         // of chunks: (items, blocks_of_item, lines): largest score, sum of exponentials
  std::int32_t* arrived;  // (items, blocks_of_item): of a tile's first item, how many of its chunks are there; zeros
  std::int32_t num_items;
  std::int32_t lines;
  std::int32_t heads_of_tile;
  std::int32_t head_parts;
  std::int32_t out_parts;
  std::int32_t num_heads;
  std::int32_t num_kv_heads;
  std::int32_t head_dim;
  std::int32_t split;  // chunks of a tile have blocks of their own
  DType dtype;
  DType out_dtype;
  std::int32_t unused;  // no byte of the arguments may be open
};
static_assert(std::has_unique_object_representations_v<AttentionArgs>);  // it is part of the key of a graph

// What blockIdx.y stands for: which heads and which of their columns a block has.
struct HeadPart {
  int kv_head;
  int first_head;  // of the query heads
  int num_heads;   // in a row of the tile
  int out_begin;   // first column of the heads' values
};

__device__ __forceinline__ HeadPart head_part(const AttentionArgs& args, int out_dim) {
  const int group = args.num_heads / args.num_kv_heads;
  const int at = static_cast<int>(blockIdx.y);
  const int kv_head = at / (args.head_parts * args.out_parts);
  const int begin = at / args.out_parts % args.head_parts * args.heads_of_tile;
  const int left = group - begin;
  return {kv_head, kv_head * group + begin, left < args.heads_of_tile ? left : args.heads_of_tile,
          at % args.out_parts * out_dim};
}

// Where the columns of a line's query head are, in q and in out.
__device__ __forceinline__ std::int64_t line_offset(const AttentionArgs& args, const HeadPart& part, int row_begin,
                                                    int line) {
  const std::int64_t row = row_begin + line / part.num_heads;
  return (row * args.num_heads + part.first_head + line % part.num_heads) * args.head_dim;
}

__device__ __forceinline__ std::int64_t state_index(const AttentionArgs& args, std::int64_t item, int line) {
  return (item * gridDim.y + blockIdx.y) * args.lines + line;
}

// Scores count as score * log2(e) / sqrt(head_dim) in powers of two.
__device__ __forceinline__ float score_scale(int head_dim) {
  return 1.44269504088896341f / sqrtf(static_cast<float>(head_dim));
}

// 2^((score - base) * scale), 0 for -inf. A NaN stays one: a key that is not a number must show in the result.
__device__ __forceinline__ float power(float score, float base, float scale) {
  return power_of_two((score - base) * scale);
}

// What scores are measured from: the largest, or 0 where all are -inf or not a number.
__device__ __forceinline__ float base_of(float largest) { return largest == -INFINITY ? 0.0f : largest; }

// The softmax of some keys: largest score (unscaled), sum of exponentials.
struct SoftmaxState {
  float largest;
  float total;
};

// Takes the next keys in; sums of values follow as before * kept + next * taken.
struct Join {
  float kept, taken;
};
__device__ __forceinline__ Join join(SoftmaxState& state, const SoftmaxState& next, float scale) {
  const float largest = fmaxf(state.largest, next.largest), base = base_of(largest);
  const Join by{power(state.largest, base, scale), power(next.largest, base, scale)};
  state.total = fmaf(next.total, by.taken, state.total * by.kept);
  state.largest = largest;
  return by;
}
__device__ __forceinline__ float joined(float before, float next, const Join& by) {
  return fmaf(next, by.taken, before * by.kept);
}

// Starts copies of kRows rows of kPieces 16-byte pieces to shared memory; zeros from num_rows and num_pieces on.
template <int kRows, int kPieces, int kThreads>
__device__ __forceinline__ void copy_rows(char* to, int to_step, const char* from, int from_step, int num_rows,
                                          int num_pieces) {
  constexpr int kTurnRows = kThreads / kPieces;
  static_assert(kThreads % kPieces == 0 && kRows % kTurnRows == 0);
  const int piece = static_cast<int>(threadIdx.x) % kPieces, row = static_cast<int>(threadIdx.x) / kPieces;
  const int rows_left = piece < num_pieces ? num_rows - row : 0;
  to += row * to_step + 16 * piece;
  from += static_cast<std::int64_t>(row) * from_step + 16 * piece;
#pragma unroll
  for (int turn = 0; turn < kRows; turn += kTurnRows) {
    copy_async<16>(to + turn * to_step, from, turn < rows_left);
    from += static_cast<std::int64_t>(kTurnRows) * from_step;
  }
}

// Tiles of kKeys keys and their values in two stages of shared memory. Keys beyond the end and columns beyond head_dim
// are zeros.
template <class T, int kHeadDim, int kOutDim, int kKeys, int kThreads>
struct KeyTiles {
  static constexpr int kSize = static_cast<int>(sizeof(T));
  static constexpr int kKeyStep = kHeadDim * kSize + 16, kValueStep = kOutDim * kSize + 16;
  static constexpr int kStageBytes = kKeys * (kKeyStep + kValueStep);
  static constexpr int kKeyPieces = kHeadDim * kSize / 16, kValuePieces = kOutDim * kSize / 16;

  char* stages;
  const char* k;  // of the head
  const char* v;  // of the head, from the first column of the block
  int key_end;
  int step;  // bytes in memory, from key to key
  int value_pieces;

  __device__ __forceinline__ void begin(const AttentionArgs& args, const AttentionItem& item, const HeadPart& part,
                                        char* shared) {
    stages = shared;
    step = args.head_dim * kSize;
    const std::int64_t head = part.kv_head * item.capacity * step;
    k = static_cast<const char*>(item.k) + head;
    v = static_cast<const char*>(item.v) + head + part.out_begin * kSize;
    key_end = item.key_end;
    const int left = (args.head_dim - part.out_begin) * kSize / 16;
    value_pieces = left < kValuePieces ? left : kValuePieces;
  }

  __device__ __forceinline__ char* keys(int stage) const { return stages + stage * kStageBytes; }
  __device__ __forceinline__ char* values(int stage) const { return keys(stage) + kKeys * kKeyStep; }

  // Starts the copies of keys [key, key + kKeys) and closes the group, which is empty beyond the end.
  __device__ __forceinline__ void fetch(int key, int stage) const {
    if (key < key_end) {
      const std::int64_t offset = static_cast<std::int64_t>(key) * step;
      copy_rows<kKeys, kKeyPieces, kThreads>(keys(stage), kKeyStep, k + offset, step, key_end - key, step / 16);
      copy_rows<kKeys, kValuePieces, kThreads>(values(stage), kValueStep, v + offset, step, key_end - key,
                                               value_pieces);
    }
    copy_async_commit();
  }
};

// Starts the copies of the tile's queries; lines beyond the end are zeros.
template <class T, int kLines, int kHeadDim, int kThreads>
__device__ __forceinline__ void fetch_queries(const AttentionArgs& args, const AttentionItem& item,
                                              const HeadPart& part, char* shared) {
  constexpr int kSize = static_cast<int>(sizeof(T)), kPieces = kHeadDim * kSize / 16;
  static_assert(kLines * kPieces % kThreads == 0);
  const char* const q = static_cast<const char*>(args.q);
#pragma unroll
  for (int at = static_cast<int>(threadIdx.x); at < kLines * kPieces; at += kThreads) {
    const int line = at / kPieces, piece = at % kPieces;
    const bool valid = line < item.num_rows * part.num_heads && 16 * piece < args.head_dim * kSize;
    const std::int64_t offset = valid ? line_offset(args, part, item.row_begin, line) * kSize + 16 * piece : 0;
    copy_async<16>(shared + line * (kHeadDim * kSize + 16) + 16 * piece, q + offset, valid);
  }
}

// What a block of a split tile ends with: the last one of its blocks to come joins the chunks of each line in ascending
// order and writes the result. A warp has a line, a lane four columns.
template <class Out, int kOutDim, int kThreads>
__device__ __forceinline__ void join_as_last(const AttentionArgs& args, const AttentionItem& item,
                                             const HeadPart& part) {
  __shared__ std::int32_t is_last;
  __threadfence();  // what this thread wrote can be seen before the block counts as there
  __syncthreads();
  if (threadIdx.x == 0) {
    std::int32_t* const arrived = args.arrived + item.first_item * gridDim.y + blockIdx.y;
    is_last = atomicAdd(arrived, 1) == item.num_chunks - 1 ? 1 : 0;
    if (is_last != 0) *arrived = 0;  // for the next launch
  }
  __syncthreads();
  if (is_last == 0) return;
  __threadfence();
  const int column = 4 * static_cast<int>(threadIdx.x % 32);
  if (column >= kOutDim || part.out_begin + column >= args.head_dim) return;
  // Several lines at a time, so that loads of all their chunks are under way together.
  constexpr int kWarps = kThreads / 32, kLinesAtOnce = 4;
  const float scale = score_scale(args.head_dim);
  const int num_lines = item.num_rows * part.num_heads, warp = static_cast<int>(threadIdx.x / 32);
  for (int first = warp; first < num_lines; first += kWarps * kLinesAtOnce) {
    SoftmaxState state[kLinesAtOnce];
    Quad sum[kLinesAtOnce] = {};
#pragma unroll
    for (int i = 0; i < kLinesAtOnce; ++i) state[i] = {-INFINITY, 0};
#pragma unroll 4
    for (int chunk = 0; chunk < item.num_chunks; ++chunk) {
      float2 next[kLinesAtOnce];
      float4 values[kLinesAtOnce];
#pragma unroll
      for (int i = 0; i < kLinesAtOnce; ++i) {
        const int line = first + i * kWarps < num_lines ? first + i * kWarps : first;
        const std::int64_t at = state_index(args, item.first_item + chunk, line);
        next[i] = __ldcg(args.states + at);
        values[i] = __ldcg(reinterpret_cast<const float4*>(args.sums + at * kOutDim + column));
      }
#pragma unroll
      for (int i = 0; i < kLinesAtOnce; ++i) {
        const Join by = join(state[i], {next[i].x, next[i].y}, scale);
        sum[i] = {{joined(sum[i].v[0], values[i].x, by), joined(sum[i].v[1], values[i].y, by),
                   joined(sum[i].v[2], values[i].z, by), joined(sum[i].v[3], values[i].w, by)}};
      }
    }
#pragma unroll
    for (int i = 0; i < kLinesAtOnce; ++i) {
      const int line = first + i * kWarps;
      if (line >= num_lines) continue;
      const float inverse = 1.0f / state[i].total;
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[i].v[e] *= inverse;
      Out* const out = static_cast<Out*>(args.out) + line_offset(args, part, item.row_begin, line);
      store_quad(out, part.out_begin + column, args.head_dim, sum[i]);
    }
  }
}

}  // namespace llada::cuda
