#include "core/check.h"
#include "cuda/device/session.h"
#include "cuda/kernels.h"
#include "cuda/rms_norm.cuh"

namespace llada::cuda {
namespace {

auto kernel_for(DType out) {
  switch (out) {
    case DType::kFloat32:
      return rms_norm_kernel<DType::kFloat32>;
    case DType::kInt8:
      return rms_norm_kernel<DType::kInt8>;
    case DType::kFloat8:
      return rms_norm_kernel<DType::kFloat8>;
    default:
      return rms_norm_kernel<DType::kBFloat16>;
  }
}

void run_rms_norm(const RmsNormArgs& args, cudaStream_t stream) {
  launch("rms_norm", kernel_for(args.dtype), dim3(static_cast<unsigned>(args.num_rows)), kRowThreads,
         rms_norm_shared_bytes(args.cols), stream, args);
}

}  // namespace

void rms_norm(Stream stream, ConstTensor x, ConstTensor weight, float eps, Tensor out) {
  if (x.rows == 0) return;
  Session& s = session_of(stream);
  const std::int64_t most_cols = (s.facts().shared_bytes - 1024) / 8;  // the kernel has some of its own
  check(x.cols <= most_cols, ErrorKind::kUnsupportedModel, "expected d_model up to ", most_cols, ", got ", x.cols);
  RmsNormArgs args{};
  args.x = static_cast<const float*>(x.data);
  args.weight = static_cast<const float*>(weight.data);
  args.out = out.data;
  args.cols = x.cols;
  args.num_rows = static_cast<std::int32_t>(x.rows);
  args.dtype = out.dtype;
  args.eps = eps;
  s.push(run_rms_norm, args);
}

}  // namespace llada::cuda
