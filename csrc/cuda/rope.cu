#include "cuda/device/session.h"
#include "cuda/kernels.h"
#include "cuda/rope.cuh"

namespace llada::cuda {
namespace {

void run_rope(const RopeArgs& args, cudaStream_t stream) {
  launch("rope", args.dtype == DType::kFloat32 ? rope_kernel<float> : rope_kernel<std::uint16_t>,
         rope_grid(args.num_rows, std::int64_t{args.num_heads} * (args.head_dim / 8)), kRopeThreads, 0, stream, args);
}

}  // namespace

void rope(Stream stream, ConstTensor x, ConstTensor angles, const std::int32_t* positions, std::int64_t head_dim,
          Tensor out) {
  if (x.rows == 0) return;
  Session& s = session_of(stream);
  RopeArgs args{};
  args.x = static_cast<const float*>(x.data);
  args.angles = static_cast<const float*>(angles.data);
  args.positions = s.input(positions, x.rows);
  args.out = out.data;
  args.num_rows = static_cast<std::int32_t>(x.rows);
  args.num_heads = static_cast<std::int32_t>(x.cols / head_dim);
  args.head_dim = static_cast<std::int32_t>(head_dim);
  args.dtype = out.dtype;
  s.push(run_rope, args);
}

}  // namespace llada::cuda
