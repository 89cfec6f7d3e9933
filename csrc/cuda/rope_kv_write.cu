#include "cuda/device/session.h"
#include "cuda/kernels.h"
#include "cuda/rope_kv_write.cuh"

namespace llada::cuda {
namespace {

void run_rope_kv(const RopeKvArgs& args, cudaStream_t stream) {
  launch("rope_kv_write", args.dtype == DType::kFloat32 ? rope_kv_kernel<float> : rope_kv_kernel<std::uint16_t>,
         rope_grid(args.num_rows, (std::int64_t{2} * args.num_kv_heads + args.num_heads) * (args.head_dim / 8)),
         kRopeThreads, 0, stream, args);
}

// queries: where those behind K and V go; nullptr: there are none.
void write_kv(const Stream& stream, const ConstTensor& kvq, const ConstTensor& angles, const std::int32_t* positions,
              const std::int32_t* places, HeadShape shape, DType dtype, const RowSpan* spans, std::int64_t num_spans,
              void* queries) {
  if (kvq.rows == 0 || num_spans == 0) return;
  Session& s = session_of(stream);
  RopeKvArgs args{};
  args.kvq = static_cast<const float*>(kvq.data);
  args.angles = static_cast<const float*>(angles.data);
  args.positions = s.input(positions, kvq.rows);
  args.places = places == positions ? args.positions : s.input(places, kvq.rows);
  args.spans = s.input(spans, num_spans);
  args.queries = queries;
  args.row_values = kvq.cols;
  args.num_rows = static_cast<std::int32_t>(kvq.rows);
  args.num_spans = static_cast<std::int32_t>(num_spans);
  args.num_heads = queries != nullptr ? static_cast<std::int32_t>(shape.num_heads) : 0;
  args.num_kv_heads = static_cast<std::int32_t>(shape.num_kv_heads);
  args.head_dim = static_cast<std::int32_t>(shape.head_dim);
  args.dtype = dtype;
  s.push(run_rope_kv, args);
}

}  // namespace

void rope_kv_write(Stream stream, ConstTensor kv, ConstTensor angles, const std::int32_t* positions,
                   const std::int32_t* places, HeadShape shape, DType dtype, const RowSpan* spans,
                   std::int64_t num_spans) {
  write_kv(stream, kv, angles, positions, places, shape, dtype, spans, num_spans, nullptr);
}

void rope_kvq(Stream stream, ConstTensor kvq, ConstTensor angles, const std::int32_t* positions,
              const std::int32_t* places, HeadShape shape, const RowSpan* spans, std::int64_t num_spans, Tensor out) {
  write_kv(stream, kvq, angles, positions, places, shape, out.dtype, spans, num_spans, out.data);
}

}  // namespace llada::cuda
