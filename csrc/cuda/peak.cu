#include "core/check.h"
#include "cuda/kernels.h"

namespace llada::cuda {

double measure_peak(Stream, DType) { fail(ErrorKind::kInternal, "not written"); }

}  // namespace llada::cuda
