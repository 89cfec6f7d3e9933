#include "core/check.h"
#include "cuda/attention/bfloat16.cuh"
#include "cuda/attention/float32.cuh"
#include "cuda/device/session.h"
#include "cuda/kernels.h"

namespace llada::cuda {
namespace {

constexpr std::int64_t kMostHeadDim = 256;

dim3 grid_of(const AttentionArgs& args) {
  return dim3(static_cast<unsigned>(args.num_items),
              static_cast<unsigned>(args.num_kv_heads * args.head_parts * args.out_parts));
}

template <int kHeadDim, int kOutDim, int kWarps>
void run_warps(const AttentionArgs& args, cudaStream_t stream) {
  using Attention = BFloat16Attention<kHeadDim, kOutDim, kWarps>;
  launch("attention_bfloat16", attention_bfloat16_kernel<kHeadDim, kOutDim, kWarps>, grid_of(args), Attention::kThreads,
         Attention::kSharedBytes, stream, args);
}

template <int kHeadDim, int kOutDim>
void run_dims(const AttentionArgs& args, cudaStream_t stream) {
  if (args.dtype == DType::kFloat32) {
    using Attention = Float32Attention<kHeadDim, kOutDim>;
    return launch("attention_float32", attention_float32_kernel<kHeadDim, kOutDim>, grid_of(args), Attention::kThreads,
                  Attention::kSharedBytes, stream, args);
  }
  if (args.lines == 32) return run_warps<kHeadDim, kOutDim, 2>(args, stream);
  if (args.lines == 64) return run_warps<kHeadDim, kOutDim, 4>(args, stream);
  run_warps<kHeadDim, kOutDim, 8>(args, stream);
}

void run_attention(const AttentionArgs& args, cudaStream_t stream) {
  if (args.head_dim <= 32)
    run_dims<32, 32>(args, stream);
  else if (args.head_dim <= 64)
    run_dims<64, 64>(args, stream);
  else if (args.head_dim <= 128)
    run_dims<128, 128>(args, stream);
  else
    run_dims<256, 128>(args, stream);
}

}  // namespace

void attention(Stream stream, ConstTensor q, HeadShape shape, const RowSpan* spans, std::int64_t num_spans,
               Tensor out) {
  check(shape.head_dim <= kMostHeadDim, ErrorKind::kUnsupportedModel, "expected head_dim up to ", kMostHeadDim,
        ", got ", shape.head_dim);
  Session& s = session_of(stream);
  thread_local AttentionPlan plan;  // keeps its memory from layer to layer
  plan_attention(spans, num_spans, shape, q.dtype, s.facts().shared_bytes, plan);
  if (plan.items.empty()) return;
  const std::int64_t shared_bytes = attention_shared_bytes(q.dtype, shape.head_dim, plan.lines);
  check(shared_bytes <= s.facts().shared_bytes, ErrorKind::kUnsupportedModel, "head_dim ", shape.head_dim, " in ",
        name_of(q.dtype), ": expected ", shared_bytes, " bytes of shared memory for a block, got ",
        s.facts().shared_bytes);

  AttentionArgs args{};
  args.q = q.data;
  args.out = out.data;
  args.items = s.input(plan.items.data(), static_cast<std::int64_t>(plan.items.size()));
  args.num_items = static_cast<std::int32_t>(plan.items.size());
  args.lines = plan.lines;
  args.heads_of_tile = plan.heads_of_tile;
  args.head_parts = plan.head_parts;
  args.out_parts = plan.out_parts;
  args.num_heads = static_cast<std::int32_t>(shape.num_heads);
  args.num_kv_heads = static_cast<std::int32_t>(shape.num_kv_heads);
  args.head_dim = static_cast<std::int32_t>(shape.head_dim);
  args.split = plan.split ? 1 : 0;
  args.dtype = q.dtype;
  args.out_dtype = out.dtype;
  if (plan.split) {
    const std::int64_t num_blocks = args.num_items * std::int64_t{grid_of(args).y};
    const std::int64_t num_lines = num_blocks * args.lines;
    args.arrived = static_cast<std::int32_t*>(s.zeros(4 * num_blocks));
    args.states = static_cast<float2*>(s.scratch(num_lines * (8 + 4 * attention_out_dim(shape.head_dim))));
    args.sums = reinterpret_cast<float*>(args.states + num_lines);
  }
  s.push(run_attention, args);
}

}  // namespace llada::cuda
