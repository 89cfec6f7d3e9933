#include "core/check.h"
#include "cuda/kernels.h"

namespace llada::cuda {

void rope(Stream, ConstTensor, ConstTensor, const std::int32_t*, std::int64_t, Tensor) { fail(ErrorKind::kInternal, "not written"); }
void rope_kv_write(Stream, ConstTensor, ConstTensor, const std::int32_t*, HeadShape, DType, const RowSpan*, std::int64_t) { fail(ErrorKind::kInternal, "not written"); }

}  // namespace llada::cuda
