// Attention in bfloat16 on tensor cores of any GPU from sm_80 on: scores and statistics float32, exponentials rounded
// to bfloat16 before they meet the values. A warp has 16 lines and sees all keys of its block.
#pragma once

#include "cuda/attention/attention.cuh"

namespace llada::cuda {

template <int kHeadDim, int kOutDim, int kWarps>
struct BFloat16Attention {
  static constexpr int kThreads = 32 * kWarps, kLines = 16 * kWarps;
  static constexpr int kKeys = attention_keys(DType::kBFloat16, kHeadDim);  // of a tile
  using Tiles = KeyTiles<std::uint16_t, kHeadDim, kOutDim, kKeys, kThreads>;
  static constexpr int kQueryBytes = kLines * Tiles::kKeyStep;
  static constexpr int kSharedBytes = attention_shared_bytes(DType::kBFloat16, kHeadDim, kLines);
  static_assert(kSharedBytes == kQueryBytes + 2 * Tiles::kStageBytes && kAttentionChunk % kKeys == 0);

  using Scores = float[kKeys / 8][4];  // fragments: lines g and g + 8, keys 8 i + 2 t and the next
  using Sums = float[kOutDim / 8][4];  // the same with columns

  // scores = q k^T for the 16 lines at `queries`.
  static __device__ __forceinline__ void score(const char* queries, const char* keys, int lane, Scores& scores) {
    const char* const q = queries + lane % 16 * Tiles::kKeyStep + lane / 16 * 16;
    const char* const k = keys + (lane % 8 + lane / 16 * 8) * Tiles::kKeyStep + lane / 8 % 2 * 16;
#pragma unroll
    for (int i = 0; i < kKeys / 8; ++i) scores[i][0] = scores[i][1] = scores[i][2] = scores[i][3] = 0;
#pragma unroll
    for (int d = 0; d < kHeadDim; d += 16) {
      std::uint32_t a[4];
      load_matrices(a, q + 2 * d);
#pragma unroll
      for (int i = 0; i < kKeys / 8; i += 2) {
        std::uint32_t b[4];
        load_matrices(b, k + 8 * i * Tiles::kKeyStep + 2 * d);
        const std::uint32_t even[2] = {b[0], b[1]}, odd[2] = {b[2], b[3]};
        multiply_bf16(scores[i], a, even);
        multiply_bf16(scores[i + 1], a, odd);
      }
    }
  }

  // Folds the scores of keys [key, ...) into the softmax of the chunk and leaves the exponentials in their place. The
  // totals are those of this lane's keys until the chunk is over.
  static __device__ __forceinline__ void fold(Scores& scores, int key, int key_end, int lane, float scale,
                                              SoftmaxState (&state)[2], Sums& sums) {
    if (key + kKeys > key_end) {
#pragma unroll
      for (int i = 0; i < kKeys / 8; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if (key + 8 * i + lane % 4 * 2 + e % 2 >= key_end) scores[i][e] = -INFINITY;
    }
    float kept[2];
    bool changed = false;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float before = state[h].largest;
      float largest = before;
#pragma unroll
      for (int i = 0; i < kKeys / 8; ++i) largest = fmaxf(largest, fmaxf(scores[i][2 * h], scores[i][2 * h + 1]));
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
      const float base = base_of(largest);
      kept[h] = power(before, base, scale);
      changed = changed || (before != -INFINITY && kept[h] != 1.0f);  // before -inf: the sums are zero
      float total = 0;
#pragma unroll
      for (int i = 0; i < kKeys / 8; ++i)
#pragma unroll
        for (int e = 2 * h; e < 2 * h + 2; ++e) {
          scores[i][e] = power_of_two(fmaf(scores[i][e], scale, -base * scale));
          total += scores[i][e];
        }
      state[h] = {largest, fmaf(state[h].total, kept[h], total)};
    }
    if (!__any_sync(~0u, changed)) return;
#pragma unroll
    for (int j = 0; j < kOutDim / 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[j][e] *= kept[e / 2];
  }

  // sums += p v
  static __device__ __forceinline__ void mix(const Scores& p, const char* values, int lane, Sums& sums) {
    const char* const v = values + lane % 16 * Tiles::kValueStep + lane / 16 * 16;
#pragma unroll
    for (int i = 0; i < kKeys / 8; i += 2) {
      const std::uint32_t a[4] = {bf16_pair(p[i][0], p[i][1]), bf16_pair(p[i][2], p[i][3]),
                                  bf16_pair(p[i + 1][0], p[i + 1][1]), bf16_pair(p[i + 1][2], p[i + 1][3])};
#pragma unroll
      for (int j = 0; j < kOutDim / 8; j += 2) {
        std::uint32_t b[4];
        load_matrices_transposed(b, v + 8 * i * Tiles::kValueStep + 16 * j);
        const std::uint32_t even[2] = {b[0], b[1]}, odd[2] = {b[2], b[3]};
        multiply_bf16(sums[j], a, even);
        multiply_bf16(sums[j + 1], a, odd);
      }
    }
  }

  // The finished sums of 16 lines to `out`, or of a chunk to where chunks are joined. `staging`: 16 rows of queries.
  static __device__ __forceinline__ void write(const AttentionArgs& args, const AttentionItem& item,
                                               const HeadPart& part, int first_line, int lane, char* staging,
                                               const SoftmaxState (&state)[2], const Sums& sums) {
    const int g = lane / 4, t = lane % 4;
    const int num_lines = item.num_rows * part.num_heads - first_line;
    const int num_columns = args.head_dim - part.out_begin;
    const bool split = args.split != 0, staged = !split && args.out_dtype == DType::kBFloat16;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int line = g + 8 * h;
      if (line >= num_lines && !staged) continue;
      const float inverse = split ? 1.0f : 1.0f / state[h].total;
      const std::int64_t at = state_index(args, blockIdx.x, first_line + line);
      float* to = split ? args.sums + at * kOutDim
                        : static_cast<float*>(args.out) + line_offset(args, part, item.row_begin, first_line + line) +
                              part.out_begin;
      if (split && t == 0) args.states[at] = {state[h].largest, state[h].total};
#pragma unroll
      for (int j = 0; j < kOutDim / 8; ++j) {
        const int column = 8 * j + 2 * t;
        const float first = sums[j][2 * h] * inverse, second = sums[j][2 * h + 1] * inverse;
        if (staged)
          *reinterpret_cast<std::uint32_t*>(staging + line * Tiles::kKeyStep + 2 * column) = bf16_pair(first, second);
        else if (split || column < num_columns)
          *reinterpret_cast<float2*>(to + column) = {first, second};
      }
    }
    if (!staged) return;
    __syncwarp();
    for (int piece = lane; piece < 16 * (kOutDim / 8); piece += 32) {
      const int line = piece / (kOutDim / 8), column = piece % (kOutDim / 8) * 8;
      if (line >= num_lines || column >= num_columns) continue;
      auto* to = static_cast<std::uint16_t*>(args.out) + line_offset(args, part, item.row_begin, first_line + line) +
                 part.out_begin + column;
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(staging + line * Tiles::kKeyStep + 2 * column);
    }
  }
};

template <int kHeadDim, int kOutDim, int kWarps>
__global__ void __launch_bounds__(32 * kWarps) attention_bfloat16_kernel(AttentionArgs args) {
  begin_kernel();
  using Attention = BFloat16Attention<kHeadDim, kOutDim, kWarps>;
  using Tiles = typename Attention::Tiles;
  LLADA_SHARED_MEMORY(shared);
  const AttentionItem item = args.items[blockIdx.x];
  if (item.num_rows == 0) return;
  const HeadPart part = head_part(args, kOutDim);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int first_line = static_cast<int>(threadIdx.x / 32) * 16;
  const bool has_lines = first_line < item.num_rows * part.num_heads;
  char* const queries = shared + first_line * Tiles::kKeyStep;
  const float scale = score_scale(args.head_dim);

  Tiles tiles;
  tiles.begin(args, item, part, shared + Attention::kQueryBytes);
  fetch_queries<std::uint16_t, Attention::kLines, kHeadDim, Attention::kThreads>(args, item, part, shared);
  tiles.fetch(item.key_begin, 0);
  tiles.fetch(item.key_begin + Attention::kKeys, 1);

  SoftmaxState state[2] = {{-INFINITY, 0}, {-INFINITY, 0}};
  typename Attention::Sums sums{};
  int stage = 0;
  for (int chunk = item.key_begin; chunk < item.key_end; chunk += kAttentionChunk) {
    SoftmaxState next[2] = {{-INFINITY, 0}, {-INFINITY, 0}};
    typename Attention::Sums next_sums{};
    for (int key = chunk; key < chunk + kAttentionChunk && key < item.key_end; key += Attention::kKeys) {
      copy_async_wait<1>();
      __syncthreads();
      if (has_lines) {
        typename Attention::Scores scores;
        Attention::score(queries, tiles.keys(stage), lane, scores);
        Attention::fold(scores, key, item.key_end, lane, scale, next, next_sums);
        Attention::mix(scores, tiles.values(stage), lane, next_sums);
      }
      __syncthreads();
      tiles.fetch(key + 2 * Attention::kKeys, stage);
      stage ^= 1;
    }
    if (!has_lines) continue;
    Join by[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      next[h].total += __shfl_xor_sync(~0u, next[h].total, 1);
      next[h].total += __shfl_xor_sync(~0u, next[h].total, 2);
      by[h] = join(state[h], next[h], scale);
    }
#pragma unroll
    for (int j = 0; j < kOutDim / 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[j][e] = joined(sums[j][e], next_sums[j][e], by[e / 2]);
  }
  if (has_lines) Attention::write(args, item, part, first_line, lane, queries, state, sums);
  if (args.split == 0) return;
  if (args.out_dtype == DType::kFloat32)
    join_as_last<float, kOutDim, Attention::kThreads>(args, item, part);
  else
    join_as_last<std::uint16_t, kOutDim, Attention::kThreads>(args, item, part);
}

}  // namespace llada::cuda
