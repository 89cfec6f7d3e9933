#include "cuda/device/session.h"
#include "cuda/kernels.h"
#include "cuda/quantize.cuh"

namespace llada::cuda {
namespace {

void run_quantize(const QuantizeArgs& args, cudaStream_t stream) {
  const auto kernel = args.dtype == DType::kInt8 ? quantize_kernel<DType::kInt8> : quantize_kernel<DType::kFloat8>;
  launch("quantize", kernel, dim3(static_cast<unsigned>(args.num_rows)), kRowThreads, 0, stream, args);
}

}  // namespace

void quantize(Stream stream, ConstTensor x, Tensor out) {
  if (x.rows == 0) return;
  QuantizeArgs args{};
  args.x = static_cast<const float*>(x.data);
  args.out = static_cast<char*>(out.data);
  args.cols = x.cols;
  args.num_rows = static_cast<std::int32_t>(x.rows);
  args.dtype = out.dtype;
  session_of(stream).push(run_quantize, args);
}

}  // namespace llada::cuda
