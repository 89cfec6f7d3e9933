// matmul and matmul_swiglu: from the page's tensors to a kernel. See choice.h for which one.
#include "core/check.h"
#include "cuda/cutlass/matmul.h"
#include "cuda/device/session.h"
#include "cuda/kernels.h"
#include "cuda/matmul/matmul.h"
#include "cuda/pack.h"

namespace llada::cuda {
namespace {

#if defined(LLADA_HAVE_CUTLASS)
CutlassRun cutlass_run(const MatmulArgs& args) {
  if (args.tier == MatmulTier::kCutlassSm80) return run_bf16_sm80;
  const bool swiglu = args.out.end == MatmulEnd::kSwiglu;
  if (args.rows == DType::kFloat8)
    return args.cutlass_tile == CutlassTileShape::k64x32 ? run_float8_sm90_64x32 : run_float8_sm90_128x128;
  switch (args.cutlass_tile) {
    case CutlassTileShape::k64x32:
      return swiglu ? run_swiglu_bf16_sm90_64x32 : run_bf16_sm90_64x32;
    case CutlassTileShape::k64x64:
      return swiglu ? run_swiglu_bf16_sm90_64x64 : run_bf16_sm90_64x64;
    case CutlassTileShape::k64x128:
      return swiglu ? run_swiglu_bf16_sm90_64x128 : run_bf16_sm90_64x128;
    case CutlassTileShape::k128x128:
      return swiglu ? run_swiglu_bf16_sm90_128x128 : run_bf16_sm90_128x128;
    case CutlassTileShape::k128x256Pairs:
      return swiglu ? run_swiglu_bf16_sm90_128x256_pairs : run_bf16_sm90_128x256_pairs;
  }
  fail(ErrorKind::kInternal, "no such tile of CUTLASS");
}
#else
CutlassRun cutlass_run(const MatmulArgs&) { fail(ErrorKind::kInternal, "a build without CUTLASS chose it"); }
#endif

void run_cutlass_matmul(const MatmulArgs& args, cudaStream_t stream) {
  CutlassMatmul product{};
  const std::int64_t element = size_of(args.rows);
  product.x = args.input.x;
  product.weight = args.input.weight;
  product.out = args.out;
  if (args.sums != nullptr)
    product.out = {args.sums, args.input.num_outputs, args.input.num_outputs, DType::kFloat32, MatmulEnd::kStore};
  product.x_step = args.input.x_step / element;
  product.weight_step = args.input.weight_step / element;
  product.num_rows = args.input.num_rows;
  product.num_outputs = static_cast<std::int32_t>(args.input.num_outputs);
  product.num_inputs = static_cast<std::int32_t>(args.num_inputs);
  product.early_launch = args.early_launch;
  cutlass_run(args)(product, stream);
  if (args.sums != nullptr) finish_sums(args.input, args.out, args.sums, args.rows != DType::kBFloat16, stream);
}

void push_matmul(const Stream& stream, const ConstTensor& x, const PackedWeight& weight, const MatmulOutput& out) {
  if (x.rows == 0 || weight.num_out == 0) return;
  Session& session = session_of(stream);
  MatmulArgs args{};
  args.input = matmul_input(x, weight);
  args.out = out;
  args.rows = x.dtype;
  args.weight = weight.dtype;
  const MatmulShape shape{x.rows,
                          args.input.num_outputs,
                          weight.num_in,
                          x.dtype,
                          weight.dtype,
                          x_alignment(args.input) == 16,
                          out.end == MatmulEnd::kSwiglu && out.cols != out.num_values};
  const DeviceFacts& facts = session.facts();
  const MatmulChoice choice =
      choose_matmul(shape, {facts.capability, facts.num_processors, facts.shared_bytes, session.options().cutlass});
  args.num_inputs = weight.num_in;
  args.tier = choice.tier;
  args.tile = choice.tile;
  args.cutlass_tile = choice.cutlass_tile;
  args.early_launch = session.options().early_launch ? 1 : 0;
  if (needs_sums(args)) args.sums = static_cast<float*>(session.scratch(4 * x.rows * args.input.num_outputs));
  session.push(run_matmul, args);
}

}  // namespace

bool needs_sums(const MatmulArgs& args) {
  const bool swiglu_after = args.tier == MatmulTier::kCutlassSm80 && args.out.end == MatmulEnd::kSwiglu;
  return swiglu_after || (args.tier != MatmulTier::kPlain && args.rows != DType::kBFloat16);
}

void run_matmul(const MatmulArgs& args, cudaStream_t stream) {
  if (args.tier != MatmulTier::kPlain) return run_cutlass_matmul(args, stream);
  switch (args.weight) {
    case DType::kFloat32:
      return run_float32(args.input, args.out, stream);
    case DType::kInt4:
      return run_bf16_int4(args.input, args.out, args.tile, stream);
    case DType::kFloat8:
      return run_float8(args.input, args.out, args.tile, stream);
    case DType::kInt8:
      if (args.rows == DType::kInt8) return run_int8(args.input, args.out, args.tile, stream);
      return run_bf16_int8(args.input, args.out, args.tile, stream);
    default:
      return run_bf16(args.input, args.out, args.tile, stream);
  }
}

MatmulInput matmul_input(const ConstTensor& x, const PackedWeight& weight) {
  const PackedLayout layout = layout_of(weight);
  MatmulInput input{};
  input.x = static_cast<const char*>(x.data);
  input.x_step = row_bytes(x.dtype, x.cols);
  input.weight = static_cast<const char*>(weight.data);
  input.weight_step = layout.row_bytes;
  input.scales = reinterpret_cast<const float*>(input.weight + layout.scales_at);
  input.scale_step = layout.scale_step;
  input.num_outputs = layout.num_rows;
  input.num_rows = static_cast<std::int32_t>(x.rows);
  const std::int64_t scale_bytes = x.dtype == DType::kInt8 ? 4 : x.dtype == DType::kFloat8 ? 16 : 0;
  input.x_bytes = static_cast<std::int32_t>(input.x_step - scale_bytes);
  return input;
}

int x_alignment(const MatmulInput& input) {
  return (input.x_step | static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(input.x))) % 16 == 0 ? 16 : 4;
}

bool multiplies(DType rows, DType weight) {
  if (rows == DType::kBFloat16) return weight == rows || weight == DType::kInt8 || weight == DType::kInt4;
  return weight == rows && (rows == DType::kFloat32 || rows == DType::kInt8 || rows == DType::kFloat8);
}

void matmul(Stream stream, ConstTensor x, const PackedWeight& weight, bool accumulate, Tensor out) {
  const MatmulEnd end = accumulate ? MatmulEnd::kAccumulate : MatmulEnd::kStore;
  push_matmul(stream, x, weight, {out.data, out.cols, weight.num_out, out.dtype, end});
}

void matmul_swiglu(Stream stream, ConstTensor x, const PackedWeight& weight, Tensor out) {
  push_matmul(stream, x, weight, {out.data, out.cols, weight.num_out / 2, out.dtype, MatmulEnd::kSwiglu});
}

}  // namespace llada::cuda
