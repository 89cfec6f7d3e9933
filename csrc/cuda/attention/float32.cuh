// Attention in float32 by plain multiply-adds, for models whose tokens must equal the published ones. A warp has eight
// lines; a lane has one key of a tile for the scores, and some columns for the values.
#pragma once

#include "cuda/attention/attention.cuh"

namespace llada::cuda {

template <int kHeadDim, int kOutDim>
struct Float32Attention {
  static constexpr int kThreads = 128, kLines = 32;
  static constexpr int kKeys = 32;      // of a tile: a lane each
  static constexpr int kWarpLines = 8;  // of a warp
  static constexpr int kColumns = kOutDim / 32;
  using Tiles = KeyTiles<float, kHeadDim, kOutDim, kKeys, kThreads>;
  static constexpr int kQueryBytes = kLines * Tiles::kKeyStep;
  static constexpr int kPowerBytes = kLines * kKeys * 4;
  static constexpr int kSharedBytes = attention_shared_bytes(DType::kFloat32, kHeadDim, kLines);
  static_assert(kSharedBytes == kQueryBytes + kPowerBytes + 2 * Tiles::kStageBytes && kAttentionChunk % kKeys == 0);

  using Sums = float[kWarpLines][kColumns];  // columns lane, lane + 32, ...

  // Folds one tile into the softmaxes of the chunk, and its values into the sums. powers: (8, 32) of this warp.
  static __device__ __forceinline__ void fold(const char* queries, const char* keys, const char* values, float* powers,
                                              int key, int key_end, int lane, float scale,
                                              SoftmaxState (&state)[kWarpLines], Sums& sums) {
    float scores[kWarpLines] = {};
#pragma unroll 4
    for (int d = 0; d < kHeadDim; d += 4) {
      const float4 k = *reinterpret_cast<const float4*>(keys + lane * Tiles::kKeyStep + 4 * d);
#pragma unroll
      for (int line = 0; line < kWarpLines; ++line) {
        const float4 q = *reinterpret_cast<const float4*>(queries + line * Tiles::kKeyStep + 4 * d);
        scores[line] = fmaf(q.x, k.x, scores[line]);
        scores[line] = fmaf(q.y, k.y, scores[line]);
        scores[line] = fmaf(q.z, k.z, scores[line]);
        scores[line] = fmaf(q.w, k.w, scores[line]);
      }
    }
    __syncwarp();  // all lanes have read the powers of the tile before
#pragma unroll
    for (int line = 0; line < kWarpLines; ++line) {
      const float score = key + lane < key_end ? scores[line] : -INFINITY;
      float largest = fmaxf(state[line].largest, score);
#pragma unroll
      for (int bits = 16; bits > 0; bits /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, bits));
      const float base = base_of(largest), kept = power(state[line].largest, base, scale);
      const float p = power(score, base, scale);
      powers[line * kKeys + lane] = p;
      state[line] = {largest, fmaf(state[line].total, kept, p)};
#pragma unroll
      for (int j = 0; j < kColumns; ++j) sums[line][j] *= kept;
    }
    __syncwarp();
#pragma unroll 2
    for (int i = 0; i < kKeys; i += 4) {
      float v[4][kColumns];
#pragma unroll
      for (int e = 0; e < 4; ++e)
#pragma unroll
        for (int j = 0; j < kColumns; ++j)
          v[e][j] = reinterpret_cast<const float*>(values + (i + e) * Tiles::kValueStep)[lane + 32 * j];
#pragma unroll
      for (int line = 0; line < kWarpLines; ++line) {
        const float4 p = *reinterpret_cast<const float4*>(powers + line * kKeys + i);
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          float& sum = sums[line][j];
          sum = fmaf(p.w, v[3][j], fmaf(p.z, v[2][j], fmaf(p.y, v[1][j], fmaf(p.x, v[0][j], sum))));
        }
      }
    }
  }
};

template <int kHeadDim, int kOutDim>
__global__ void __launch_bounds__(128) attention_float32_kernel(AttentionArgs args) {
  begin_kernel();
  using Attention = Float32Attention<kHeadDim, kOutDim>;
  using Tiles = typename Attention::Tiles;
  LLADA_SHARED_MEMORY(shared);
  const AttentionItem item = args.items[blockIdx.x];
  if (item.num_rows == 0) return;
  const HeadPart part = head_part(args, kOutDim);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int first_line = static_cast<int>(threadIdx.x / 32) * Attention::kWarpLines;
  const int num_lines = item.num_rows * part.num_heads - first_line;
  const char* const queries = shared + first_line * Tiles::kKeyStep;
  float* const powers = reinterpret_cast<float*>(shared + Attention::kQueryBytes) + first_line * Attention::kKeys;
  const float scale = score_scale(args.head_dim);

  Tiles tiles;
  tiles.begin(args, item, part, shared + Attention::kQueryBytes + Attention::kPowerBytes);
  fetch_queries<float, Attention::kLines, kHeadDim, Attention::kThreads>(args, item, part, shared);
  tiles.fetch(item.key_begin, 0);
  tiles.fetch(item.key_begin + Attention::kKeys, 1);

  SoftmaxState state[Attention::kWarpLines];
#pragma unroll
  for (int line = 0; line < Attention::kWarpLines; ++line) state[line] = {-INFINITY, 0};
  typename Attention::Sums sums{};
  int stage = 0;
  for (int chunk = item.key_begin; chunk < item.key_end; chunk += kAttentionChunk) {
    SoftmaxState next[Attention::kWarpLines];
#pragma unroll
    for (int line = 0; line < Attention::kWarpLines; ++line) next[line] = {-INFINITY, 0};
    typename Attention::Sums next_sums{};
    for (int key = chunk; key < chunk + kAttentionChunk && key < item.key_end; key += Attention::kKeys) {
      copy_async_wait<1>();
      __syncthreads();
      if (num_lines > 0)
        Attention::fold(queries, tiles.keys(stage), tiles.values(stage), powers, key, item.key_end, lane, scale, next,
                        next_sums);
      __syncthreads();
      tiles.fetch(key + 2 * Attention::kKeys, stage);
      stage ^= 1;
    }
    if (num_lines <= 0) continue;
#pragma unroll
    for (int line = 0; line < Attention::kWarpLines; ++line) {
#pragma unroll
      for (int bits = 16; bits > 0; bits /= 2) next[line].total += __shfl_xor_sync(~0u, next[line].total, bits);
      const Join by = join(state[line], next[line], scale);
#pragma unroll
      for (int j = 0; j < Attention::kColumns; ++j) sums[line][j] = joined(sums[line][j], next_sums[line][j], by);
    }
  }

#pragma unroll
  for (int line = 0; line < Attention::kWarpLines; ++line) {
    if (line >= num_lines) continue;
    const std::int64_t at = state_index(args, blockIdx.x, first_line + line);
    if (args.split != 0 && lane == 0) args.states[at] = {state[line].largest, state[line].total};
    const float inverse = 1.0f / state[line].total;
    float* out = static_cast<float*>(args.out) + line_offset(args, part, item.row_begin, first_line + line);
#pragma unroll
    for (int j = 0; j < Attention::kColumns; ++j) {
      const int column = lane + 32 * j;
      if (args.split != 0)
        args.sums[at * kOutDim + column] = sums[line][j];
      else if (part.out_begin + column < args.head_dim)
        out[part.out_begin + column] = sums[line][j] * inverse;
    }
  }
  if (args.split != 0) join_as_last<float, kOutDim, Attention::kThreads>(args, item, part);
}

}  // namespace llada::cuda
