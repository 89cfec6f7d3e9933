#include "core/check.h"
#include "cuda/kernels.h"

namespace llada::cuda {

void candidates(Stream, ConstTensor, const PackedWeight&, const SamplingRule*, std::int64_t, const CandidateRow*, std::int64_t, Candidate*) { fail(ErrorKind::kInternal, "not written"); }

}  // namespace llada::cuda
