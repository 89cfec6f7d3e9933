#include "core/check.h"
#include "cuda/kernels.h"

namespace llada::cuda {

std::int64_t packed_bytes(const PackedWeight&) { fail(ErrorKind::kInternal, "not written"); }
bool pack(Stream, const StoredWeight&, const PackedWeight&, void*) { fail(ErrorKind::kInternal, "not written"); }

}  // namespace llada::cuda
