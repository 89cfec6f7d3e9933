// Which candidates of each sequence are to be committed: one block for a group sorts them and reads off how many its
// rule takes. A thousand candidates are 55 passes over 12 KiB of shared memory, some microseconds of a step; what
// bounds it are the barriers between them. Groups that don't fit are sorted in device memory.
#pragma once

#include <limits>

#include "cuda/device/instructions.cuh"
#include "ops/commit.h"

namespace llada::cuda {

constexpr int kCommitThreads = 256;
constexpr std::int64_t kSortedBytes = 12;  // of a candidate: its key, its index

// Candidates of a group while they are sorted.
struct Sorted {
  double* keys;
  std::int32_t* indices;  // from the beginning of the group

  // Highest key first, then lower position. No two are equal.
  __device__ __forceinline__ bool before(std::int32_t a, std::int32_t b) const {
    return keys[a] > keys[b] || (keys[a] == keys[b] && indices[a] < indices[b]);
  }
  __device__ __forceinline__ void exchange(std::int32_t a, std::int32_t b) const {
    const double key = keys[a];
    keys[a] = keys[b];
    keys[b] = key;
    const std::int32_t index = indices[a];
    indices[a] = indices[b];
    indices[b] = index;
  }
};

// Bitonic sort of n elements, any number: all comparisons point the same way (each merge begins with a mirror image),
// so elements beyond the end would stay there and need not exist. Batcher, "Sorting networks and their applications"
// (1968).
__device__ __forceinline__ void sort_by_block(const Sorted& sorted, std::int32_t n) {
  for (std::int32_t size = 2; size / 2 < n; size *= 2) {
    for (std::int32_t distance = size / 2; distance > 0; distance /= 2) {
      __syncthreads();
      for (std::int32_t i = static_cast<std::int32_t>(threadIdx.x); i < (n + distance) / 2; i += kCommitThreads) {
        const std::int32_t low = 2 * i - (i & (distance - 1));
        const std::int32_t high = distance == size / 2 ? low ^ (size - 1) : low + distance;
        if (high < n && sorted.before(high, low)) sorted.exchange(low, high);
      }
    }
  }
  __syncthreads();
}

// candidates, chosen: (num_candidates); groups: one for each block. Shared memory has room for `capacity`
// candidates; the order of more is found in `memory`: (most_candidates) keys, then as many indices.
__global__ void __launch_bounds__(kCommitThreads)
    commit_kernel(Candidate* candidates, const CommitGroup* groups, std::int32_t capacity, double* memory,
                  std::int64_t most_candidates, std::int64_t* chosen) {
  begin_kernel();
  LLADA_SHARED_MEMORY(shared);
  __shared__ std::int32_t unusable, taken, any_token;
  const CommitGroup group = groups[blockIdx.x];
  const std::int32_t n = static_cast<std::int32_t>(group.end - group.begin);
  const std::int32_t unquestioned = static_cast<std::int32_t>(num_unquestioned(group, n));
  const std::int32_t thread = static_cast<std::int32_t>(threadIdx.x);
  Candidate* const own = candidates + group.begin;
  std::int64_t* const out = chosen + group.begin;
  Sorted sorted{memory + group.begin, reinterpret_cast<std::int32_t*>(memory + most_candidates) + group.begin};
  if (n <= capacity) {
    sorted.keys = reinterpret_cast<double*>(shared);
    sorted.indices = reinterpret_cast<std::int32_t*>(sorted.keys + capacity);
  }

  if (thread == 0) {
    unusable = 0;
    taken = group.select == Select::kTopK ? unquestioned : n;  // of the others: until one does not pass
    any_token = 0;
  }
  __syncthreads();
  for (std::int32_t i = thread; i < n; i += kCommitThreads) {
    sorted.keys[i] = order_key(group, own, n, i);
    sorted.indices[i] = i;
    if (own[i].token < 0) unusable = 1;
  }
  sort_by_block(sorted, n);
  if (unusable != 0) {
    for (std::int32_t i = thread; i < n; i += kCommitThreads) out[i] = -1;
    return;
  }

  const bool summed = is_summed(group.select);
  if (summed && thread == 0) {  // one after the other, of values that are in the nearest cache
    CommitSums sums;
    for (std::int32_t rank = 0; rank < n && taken == n; ++rank) {
      const Candidate& candidate = own[sorted.indices[rank]];
      sums.add(candidate);
      if (rank >= unquestioned && !passes(group, sums, candidate)) taken = rank;
    }
  }
  for (std::int32_t rank = unquestioned + thread; rank < n && group.select != Select::kTopK && !summed;
       rank += kCommitThreads)
    if (!passes(group, rank, own, n, sorted.indices[rank])) {
      atomicMin(&taken, rank);
      break;  // this thread's later ones change nothing
    }
  __syncthreads();
  for (std::int32_t rank = thread; rank < n; rank += kCommitThreads) {
    const std::int32_t i = sorted.indices[rank];
    out[rank] = rank < taken ? group.begin + i : -1;
    if (rank < taken && own[i].token != group.mask_id) any_token = 1;
  }
  __syncthreads();
  if (group.select == Select::kTopK || n == 0 || any_token != 0) return;

  // The published loop would write the mask over itself for ever: commit the best token that is one.
  if (thread >= 32) return;
  double best_key = -std::numeric_limits<double>::infinity();
  std::int32_t best = n;
  const auto take = [&](double key, std::int32_t i) {
    if (key < best_key || (key == best_key && i > best)) return;
    best_key = key;
    best = i;
  };
  for (std::int32_t i = thread; i < n; i += 32) take(commit_key(own[i].other_confidence), i);
  for (int bits = 16; bits > 0; bits /= 2) {
    const double key = __shfl_xor_sync(0xffffffffu, best_key, bits);
    take(key, __shfl_xor_sync(0xffffffffu, best, bits));
  }
  for (std::int32_t rank = 1 + thread; rank < taken; rank += 32) out[rank] = -1;
  if (thread == 0) {
    own[best].token = own[best].other_token;
    own[best].confidence = own[best].other_confidence;
    own[best].log_prob = own[best].other_log_prob;
    out[0] = group.begin + best;
  }
}

}  // namespace llada::cuda
