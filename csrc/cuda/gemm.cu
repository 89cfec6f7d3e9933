// Products: from the page's tensors to a kernel. See product_choice.h for which one.
#include <cstdlib>
#include <string>

#include "core/check.h"
#include "cuda/cutlass/products.h"
#include "cuda/gemm_tiles.h"
#include "cuda/kernels.h"
#include "cuda/pack.h"
#include "cuda/session.h"

namespace llada::cuda {
namespace {

struct ProductArgs {
  ProductInput input;
  ProductOutput out;
  float* sums;  // (num_rows, num_outputs), where a pass after the product needs them
  std::int64_t num_inputs;
  DType rows;
  DType weight;
  ProductTier tier;
  ProductTileShape tile;
  CutlassTileShape cutlass_tile;
  std::int32_t unused;  // no byte of the arguments may be open
};
static_assert(std::has_unique_object_representations_v<ProductArgs>);

#if defined(LLADA_HAVE_CUTLASS)
constexpr bool kHasCutlass = true;

CutlassRun cutlass_run(const ProductArgs& args) {
  if (args.tier == ProductTier::kCutlassSm80) return run_bf16_sm80;
  const bool small = args.cutlass_tile == CutlassTileShape::k64x32;
  if (args.rows == DType::kFloat8) return small ? run_float8_sm90_64x32 : run_float8_sm90_128x128;
  if (small) return run_bf16_sm90_64x32;
  return args.cutlass_tile == CutlassTileShape::k128x128 ? run_bf16_sm90_128x128 : run_bf16_sm90_256x128;
}
#else
constexpr bool kHasCutlass = false;

CutlassRun cutlass_run(const ProductArgs&) { fail(ErrorKind::kInternal, "a build without CUTLASS chose it"); }
#endif

void run_cutlass_product(const ProductArgs& args, cudaStream_t stream) {
  CutlassProduct product{};
  const std::int64_t element = size_of(args.rows);
  product.x = args.input.x;
  product.weight = args.input.weight;
  product.out = args.sums != nullptr ? args.sums : static_cast<float*>(args.out.data);
  product.x_step = args.input.x_step / element;
  product.weight_step = args.input.weight_step / element;
  product.out_step = args.sums != nullptr ? args.input.num_outputs : args.out.cols;
  product.num_rows = args.input.num_rows;
  product.num_outputs = static_cast<std::int32_t>(args.input.num_outputs);
  product.num_inputs = static_cast<std::int32_t>(args.num_inputs);
  product.accumulate = args.sums == nullptr && args.out.end == ProductEnd::kAccumulate;
  cutlass_run(args)(product, stream);
  if (args.sums != nullptr) finish_sums(args.input, args.out, args.sums, args.rows != DType::kBFloat16, stream);
}

void run_product(const ProductArgs& args, cudaStream_t stream) {
  if (args.tier != ProductTier::kPlain) return run_cutlass_product(args, stream);
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

// LLADA_CUDA_PRODUCTS: "plain" (or nothing) or "cutlass". Until a tier is proven only who asks for it gets it.
bool wants_cutlass() {
  static const bool wants = [] {
    const char* const asked = std::getenv("LLADA_CUDA_PRODUCTS");
    const std::string tier = asked == nullptr ? "" : asked;
    check(tier.empty() || tier == "plain" || tier == "cutlass", ErrorKind::kConfig,
          "LLADA_CUDA_PRODUCTS: expected plain or cutlass, got \"", tier, "\"");
    check(tier != "cutlass" || kHasCutlass, ErrorKind::kConfig,
          "LLADA_CUDA_PRODUCTS=cutlass: this build has no CUTLASS (install nvidia-cutlass, build again)");
    return tier == "cutlass";
  }();
  return wants;
}

void product(const Stream& stream, const ConstTensor& x, const PackedWeight& weight, const ProductOutput& out) {
  if (x.rows == 0 || weight.num_out == 0) return;
  Session& session = session_of(stream);
  ProductArgs args{};
  args.input = product_input(x, weight);
  args.out = out;
  args.rows = x.dtype;
  args.weight = weight.dtype;
  const ProductShape shape{x.rows,  args.input.num_outputs, weight.num_in,
                           x.dtype, weight.dtype,           x_alignment(args.input) == 16};
  const DeviceFacts& facts = session.facts();
  const ProductChoice choice =
      choose_product(shape, {facts.capability, facts.num_processors, facts.shared_bytes, wants_cutlass()});
  args.num_inputs = weight.num_in;
  args.tier = choice.tier;
  args.tile = choice.tile;
  args.cutlass_tile = choice.cutlass_tile;
  if (choice.tier != ProductTier::kPlain && (out.end == ProductEnd::kSwiglu || x.dtype != DType::kBFloat16))
    args.sums = static_cast<float*>(session.scratch(4 * x.rows * args.input.num_outputs));
  session.push(run_product, args);
}

}  // namespace

ProductInput product_input(const ConstTensor& x, const PackedWeight& weight) {
  const PackedLayout layout = layout_of(weight);
  ProductInput input{};
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

int x_alignment(const ProductInput& input) {
  return (input.x_step | static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(input.x))) % 16 == 0 ? 16 : 4;
}

bool multiplies(DType rows, DType weight) {
  if (rows == DType::kBFloat16) return weight == rows || weight == DType::kInt8 || weight == DType::kInt4;
  return weight == rows && (rows == DType::kFloat32 || rows == DType::kInt8 || rows == DType::kFloat8);
}

void matmul(Stream stream, ConstTensor x, const PackedWeight& weight, bool accumulate, Tensor out) {
  const ProductEnd end = accumulate ? ProductEnd::kAccumulate : ProductEnd::kStore;
  product(stream, x, weight, {out.data, out.cols, weight.num_out, out.dtype, end});
}

void matmul_swiglu(Stream stream, ConstTensor x, const PackedWeight& weight, Tensor out) {
  product(stream, x, weight, {out.data, out.cols, weight.num_out / 2, out.dtype, ProductEnd::kSwiglu});
}

}  // namespace llada::cuda
