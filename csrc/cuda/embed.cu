#include "cuda/device/session.h"
#include "cuda/embed.cuh"
#include "cuda/kernels.h"

namespace llada::cuda {
namespace {

void run_embed(const EmbedArgs& args, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(args.num_rows),
                  static_cast<unsigned>((args.cols + 4 * kEmbedThreads - 1) / (4 * kEmbedThreads)));
  launch("embed", args.dtype == DType::kFloat32 ? embed_kernel<float> : embed_kernel<std::uint16_t>, grid,
         kEmbedThreads, 0, stream, args);
}

}  // namespace

void embed(Stream stream, const std::int32_t* tokens, ConstTensor table, Tensor out) {
  if (out.rows == 0) return;
  Session& s = session_of(stream);
  EmbedArgs args{};
  args.tokens = s.input(tokens, out.rows);
  args.table = table.data;
  args.out = static_cast<float*>(out.data);
  args.cols = out.cols;
  args.num_rows = static_cast<std::int32_t>(out.rows);
  args.dtype = table.dtype;
  s.push(run_embed, args);
}

}  // namespace llada::cuda
