// From hidden rows to candidates: the product with the head, and what its logits come to, in one pass.
//
// The head of an 8B model is 126,464 rows of 8 KiB: 1.04 GB in bfloat16, read once for up to 128 rows of a batch, 0.31
// ms at the 3.35 TB/s of an H100. That bounds it. A block takes a chunk of 128 tokens, so there are 988 of them for 132
// multiprocessors, three to each: while one folds its logits (a twentieth of its time) the others load. Chunks
// are wide because each one reads the hidden rows again, from the second-level cache: 128 tokens make that a quarter of
// the weights' bytes. A logit never leaves the block; 64 bytes for a row and chunk do, and a second kernel merges them,
// in the order of the vocabulary. Rows whose most probable tokens are asked for also leave those of each chunk, 8 bytes
// for each.
//
// Chunks depend on nothing but the vocabulary and sums run in one order, so a row has the same bits in any batch.
#pragma once

#include <cmath>

#include "cuda/matmul/tile.cuh"
#include "ops/candidates.h"

namespace llada::cuda {

constexpr int kChunkTokens = 128;
constexpr int kLogitStep = kChunkTokens + 8;  // floats; pairs that eight threads of four rows write lie in all banks

// Weights of few bits are loaded two groups at a time where rows are few, so that a row's piece is 128 bytes of memory.
template <class Operands, int kRows>
constexpr int kHeadDepth = kRows == 32 && Operands::kGroupBytes < 128 ? 2 : 1;

// Each warp has at most 64 rows and 32 tokens. With 32 rows of bfloat16 a block takes 68 KiB of shared memory for three
// stages: three of them share a multiprocessor of sm_90, which keeps 108 KiB of weights on their way.
template <class Operands, int kRows, int kXCopyBytes>
using HeadTile =
    MatmulTile<Operands, kRows, kChunkTokens, kRows == 32 ? 1 : 2, 4, kHeadDepth<Operands, kRows>, 3, kXCopyBytes>;

// Which rows a launch works on. A slot is a row of the product; the guide of a candidate has the slot after it, in the
// same tile.
struct HeadRows {
  const SamplingRule* rules;
  const CandidateRow* rows;          // (num_rows)
  const std::int32_t* candidate_of;  // (num_slots): index of its candidate, -1: a guide, or nobody
  const std::uint32_t* allowed;      // (num_sets, set_words): the sets of tokens that rows name
  RowState* states;                  // (num_rows, num_chunks)
  Ranked* lists;                     // (num_rows, num_chunks, most)
  std::int64_t most;                 // alternatives that a row asks for; 0: there are no lists
};

// The larger of two, then the larger of the rest, all over the warp.
__device__ __forceinline__ void two_largest_of_warp(float& largest, float& second) {
#pragma unroll
  for (int bits = 16; bits > 0; bits /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, largest, bits);
    const float other_second = __shfl_xor_sync(0xffffffffu, second, bits);
    second = fmaxf(fmaxf(second, other_second), fminf(largest, other));
    largest = fmaxf(largest, other);
  }
}

// The highest score, of the lowest token that has it. Tokens of lanes without one are -1, scores -infinity.
__device__ __forceinline__ void best_of_warp(double& score, std::int32_t& token) {
#pragma unroll
  for (int bits = 16; bits > 0; bits /= 2) {
    const double other = __shfl_xor_sync(0xffffffffu, score, bits);
    const std::int32_t of = __shfl_xor_sync(0xffffffffu, token, bits);
    if (other > score || (other == score && of >= 0 && (token < 0 || of < token))) {
      score = other;
      token = of;
    }
  }
}

__device__ __forceinline__ double sum_of_warp(double value) {
#pragma unroll
  for (int bits = 16; bits > 0; bits /= 2) value += __shfl_xor_sync(0xffffffffu, value, bits);
  return value;
}

// A row of the chunk of tokens that begins with `first`; `count` of them exist. Same arithmetic as fold_token, but the
// exponentials are float32 and the order is the warp's. set: see fold_token; a word of it is a load for the whole warp.
template <class LogitAt>
__device__ __forceinline__ RowState fold_chunk(const SamplingRule& rule, const CandidateRow& row,
                                               const std::uint32_t* set, std::int32_t first, std::int32_t count,
                                               const LogitAt& logit_at) {
  constexpr int kEach = kChunkTokens / 32;
  const std::int32_t lane = static_cast<std::int32_t>(threadIdx.x) % 32;
  float logits[kEach];
  bool counts[kEach];  // in the softmax
  bool finite = true;
  RowState state;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const std::int32_t at = lane + 32 * i, token = first + at;
    logits[i] = logit_at(at);
    counts[i] = at < count && token != rule.suppressed_token && !unconfident(rule, token);
    if (counts[i]) {
      state.second = fmaxf(state.second, fminf(state.largest, logits[i]));
      state.largest = fmaxf(state.largest, logits[i]);
    }
    if (at >= count) continue;
    finite = finite && is_finite(logits[i]);
    if (token == rule.mask_id || token == rule.suppressed_token || !is_allowed(set, token)) continue;
    const double score = score_of(rule, row, token, logits[i]);
    if (score > state.best_score) {
      state.best_score = score;
      state.best_token = token;
    }
  }
  two_largest_of_warp(state.largest, state.second);
  best_of_warp(state.best_score, state.best_token);
  state.finite = __all_sync(0xffffffffu, finite) != 0;

  double sum = 0;  // the small terms beside a 1 need more than float32
  float weighted = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (!counts[i]) continue;
    const float d = logits[i] - state.largest;
    const float e = expf(d);
    sum += static_cast<double>(e);
    weighted += e * fmaxf(d, -100.0f);
  }
  state.sum = sum_of_warp(sum);
  state.weighted = sum_of_warp(static_cast<double>(weighted));

  const auto is_here = [&](std::int32_t token) { return token >= first && token - first < count; };
  if (state.best_token >= 0) state.best_logit = logit_at(state.best_token - first);
  if (is_here(row.target)) state.target_logit = logit_at(row.target - first);
  if (is_here(rule.mask_id) && rule.mask_id != rule.suppressed_token && is_allowed(set, rule.mask_id)) {
    state.mask_logit = logit_at(rule.mask_id - first);
    state.mask_score = score_of(rule, row, rule.mask_id, state.mask_logit);
  }
  return state;
}

// The most probable tokens of a row's chunk, as of fold_chunk: round by round the best of what the lanes have left goes
// to the list.
template <class LogitAt>
__device__ __forceinline__ void rank_chunk(const SamplingRule& rule, std::int32_t first, std::int32_t count,
                                           const LogitAt& logit_at, Ranked* list) {
  constexpr int kEach = kChunkTokens / 32;
  const std::int32_t lane = static_cast<std::int32_t>(threadIdx.x) % 32, length = rule.num_alternatives;
  float left[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const std::int32_t at = lane + 32 * i;
    left[i] = at < count && in_softmax(rule, first + at) ? logit_at(at) : kNoLogit;
  }
#pragma unroll 1
  for (std::int32_t place = 0; place < length; ++place) {
    float largest = left[0];
    std::int32_t at = lane;
#pragma unroll
    for (int i = 1; i < kEach; ++i) {
      if (!(left[i] > largest)) continue;
      largest = left[i];
      at = lane + 32 * i;
    }
    const float own = largest;
#pragma unroll
    for (int bits = 16; bits > 0; bits /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, bits));
    if (!(largest > kNoLogit)) {  // no tokens are left, or the row's logits are not finite
      for (std::int32_t i = place + lane; i < length; i += 32) list[i] = Ranked{};
      return;
    }
    std::int32_t lowest = own == largest ? at : kChunkTokens;
    if (__popc(__ballot_sync(0xffffffffu, own == largest)) > 1) {  // equal logits: the lowest token of them
#pragma unroll
      for (int bits = 16; bits > 0; bits /= 2) {
        const std::int32_t other = __shfl_xor_sync(0xffffffffu, lowest, bits);
        lowest = other < lowest ? other : lowest;
      }
    }
    if (own != largest || at != lowest) continue;
    list[place] = {largest, first + at};
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      if (at == lane + 32 * i) left[i] = kNoLogit;
  }
}

template <class Tile>
constexpr std::int64_t head_shared_bytes() {
  constexpr std::int64_t kLogitBytes = std::int64_t{4} * Tile::kRows * kLogitStep;
  return Tile::kSharedBytes > kLogitBytes ? Tile::kSharedBytes : kLogitBytes;
}

// Blocks of a kernel with lists that are to share a multiprocessor, as many as shared memory lets them; 0: the compiler
// finds it. Left alone it tries for more with small tiles, and has too few registers for the product then.
template <class Tile, bool kRanks>
constexpr int kHeadBlocks = !kRanks || Tile::kRows == 128 ? 0
                            : Tile::kRows == 64           ? 2
                                                          : 3;

// Grid (tiles of slots, chunks): blocks that read the same weights run together. kRanks: some rows ask for
// alternatives.
template <class Tile, bool kRanks>
__global__ void __launch_bounds__(Tile::kThreads, kHeadBlocks<Tile, kRanks>)
    head_kernel(MatmulInput input, HeadRows head) {
  static_assert(Tile::kOutputs == kChunkTokens);
  LLADA_SHARED_MEMORY(shared);
  const std::int64_t slot0 = std::int64_t{blockIdx.x} * Tile::kRows;
  const std::int64_t first = std::int64_t{blockIdx.y} * kChunkTokens;
  float* const logits = reinterpret_cast<float*>(shared);  // (kRows, kLogitStep), when the product is through
  {
    Tile tile;
    tile.run(input, slot0, first, shared);
    tile.for_each_pair(input, slot0, first, [&](int row, int output, float a, float b) {
      *reinterpret_cast<float2*>(logits + row * kLogitStep + output) = {a, b};
    });
  }
  __syncthreads();

  const std::int64_t left = input.num_outputs - first;
  const std::int32_t count = left < kChunkTokens ? static_cast<std::int32_t>(left) : kChunkTokens;
  constexpr int kWarps = Tile::kThreads / 32;
  for (int slot = static_cast<int>(threadIdx.x) / 32; slot < Tile::kRows; slot += kWarps) {
    if (slot0 + slot >= input.num_rows) return;
    const std::int32_t index = head.candidate_of[slot0 + slot];
    if (index < 0) continue;
    const CandidateRow row = head.rows[index];
    const SamplingRule rule = head.rules[row.rule];
    const float* const own = logits + slot * kLogitStep;
    const float factor = static_cast<float>(rule.guidance_scale) + 1.0f;
    const auto logit_at = [&](std::int32_t at) {
      if (row.guide_row < 0) return own[at];
      const float guide = own[kLogitStep + at];
      return guide + factor * (own[at] - guide);
    };
    const std::uint32_t* const set =
        row.allowed < 0 ? nullptr : head.allowed + row.allowed * set_words(input.num_outputs);
    const RowState state = fold_chunk(rule, row, set, static_cast<std::int32_t>(first), count, logit_at);
    const std::int64_t place = std::int64_t{index} * gridDim.y + blockIdx.y;
    if (threadIdx.x % 32 == 0) head.states[place] = state;
    if (kRanks && rule.num_alternatives > 0)
      rank_chunk(head.rules[row.rule], static_cast<std::int32_t>(first), count, logit_at,
                 head.lists + place * head.most);
  }
}

constexpr int kMergeThreads = 128;

// One block for a row: each thread merges a run of chunks, then neighbours merge.  alternatives: (num_rows, most)
__global__ void __launch_bounds__(kMergeThreads)
    merge_kernel(HeadRows head, std::int64_t num_chunks, Candidate* candidates, Alternative* alternatives) {
  begin_kernel();
  LLADA_SHARED_MEMORY(shared);
  RowState* const states = reinterpret_cast<RowState*>(shared);             // (kMergeThreads)
  Ranked* const lists = reinterpret_cast<Ranked*>(states + kMergeThreads);  // (kMergeThreads, most)
  const std::int64_t row = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t each = (num_chunks + kMergeThreads - 1) / kMergeThreads;
  const std::int64_t end = (thread + 1) * each < num_chunks ? (thread + 1) * each : num_chunks;
  RowState own;
  for (std::int64_t chunk = thread * each; chunk < end; ++chunk) merge(own, head.states[row * num_chunks + chunk]);
  states[thread] = own;
  const SamplingRule& rule = head.rules[head.rows[row].rule];
  const std::int64_t length = rule.num_alternatives;
  Ranked* const list = lists + thread * head.most;
  for (std::int64_t i = 0; i < length; ++i) list[i] = Ranked{};
  for (std::int64_t chunk = thread * each; chunk < end && length > 0; ++chunk)
    offer_all(list, head.lists + (row * num_chunks + chunk) * head.most, length);
  for (int distance = 1; distance < kMergeThreads; distance *= 2) {
    __syncthreads();
    if (thread % (2 * distance) != 0) continue;
    merge(states[thread], states[thread + distance]);
    if (length > 0) offer_all(list, list + distance * head.most, length);
  }
  if (thread == 0) candidates[row] = candidate_of(states[0], rule, head.rows[row]);
  if (length == 0) return;
  __syncthreads();
  if (thread < length) alternatives[row * head.most + thread] = alternative_of(states[0], rule, lists[thread]);
}

}  // namespace llada::cuda
