#include <algorithm>

#include "cuda/commit.cuh"
#include "cuda/device/session.h"
#include "cuda/kernels.h"

namespace llada::cuda {
namespace {

constexpr std::int64_t kMostShared = 4032;  // candidates: with the variables of the kernel less than 48 KiB

struct CommitArgs {
  Candidate* candidates;
  const CommitGroup* groups;
  std::int64_t num_groups;
  std::int64_t most_candidates;  // of a group
  double* memory;                // nullptr: the shared memory is enough
  std::int64_t* chosen;
};

void run_commit(const CommitArgs& args, cudaStream_t stream) {
  const std::int64_t capacity = std::min(args.most_candidates, kMostShared);
  launch("commit", commit_kernel, dim3(static_cast<unsigned>(args.num_groups)), kCommitThreads, capacity * kSortedBytes,
         stream, args.candidates, args.groups, static_cast<std::int32_t>(capacity), args.memory, args.most_candidates,
         args.chosen);
}

}  // namespace

void commit(Stream stream, Candidate* candidates, std::int64_t num_candidates, const CommitGroup* groups,
            std::int64_t num_groups, std::int64_t* chosen) {
  if (num_candidates == 0 || num_groups == 0) return;
  Session& session = session_of(stream);
  CommitArgs args{};
  args.candidates = session.output(candidates, num_candidates, /*fill=*/true);
  args.groups = session.input(groups, num_groups);
  args.num_groups = num_groups;
  args.most_candidates = (num_candidates + 31) / 32 * 32;  // few values, few graphs
  if (args.most_candidates > kMostShared)
    args.memory = static_cast<double*>(session.scratch(args.most_candidates * kSortedBytes));
  args.chosen = session.output(chosen, num_candidates);
  session.push(run_commit, args);
}

}  // namespace llada::cuda
