#include "cuda/device/session.h"
#include "cuda/keep_rows.cuh"
#include "cuda/kernels.h"

namespace llada::cuda {
namespace {

void run_keep_rows(const KeepRowsArgs& args, cudaStream_t stream) {
  launch("keep_rows", args.unit_bytes == 4 ? keep_rows_kernel<std::uint32_t> : keep_rows_kernel<std::uint16_t>,
         dim3(static_cast<unsigned>((args.row_units + kKeepRowsThreads - 1) / kKeepRowsThreads)), kKeepRowsThreads, 0,
         stream, args);
}

}  // namespace

void keep_rows(Stream stream, const std::int32_t* rows, std::int64_t num_kept, Tensor x) {
  if (num_kept == 0) return;
  Session& s = session_of(stream);
  const std::int64_t num_bytes = row_bytes(x.dtype, x.cols);
  KeepRowsArgs args{};
  args.rows = s.input(rows, num_kept);
  args.x = x.data;
  args.unit_bytes = num_bytes % 4 == 0 ? 4 : 2;
  args.row_units = num_bytes / args.unit_bytes;
  args.num_kept = static_cast<std::int32_t>(num_kept);
  s.push(run_keep_rows, args);
}

}  // namespace llada::cuda
