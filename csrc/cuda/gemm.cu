// Products: from the page's tensors to a kernel. See product_choice.h for which one.
#include <cstdlib>
#include <cstring>

#include "cuda/gemm_tiles.h"
#include "cuda/kernels.h"
#include "cuda/pack.h"
#include "cuda/session.h"

namespace llada::cuda {
namespace {

struct ProductArgs {
  ProductInput input;
  ProductOutput out;
  DType rows;
  DType weight;
  ProductTileShape tile;
  ProductTier tier;
};
static_assert(std::has_unique_object_representations_v<ProductArgs>);

void run_product(const ProductArgs& args, cudaStream_t stream) {
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

void product(const Stream& stream, const ConstTensor& x, const PackedWeight& weight, const ProductOutput& out) {
  if (x.rows == 0) return;
  Session& session = session_of(stream);
  ProductArgs args{};
  args.input = product_input(x, weight);
  args.out = out;
  args.rows = x.dtype;
  args.weight = weight.dtype;
  const ProductShape shape{x.rows,  args.input.num_outputs, weight.num_in,
                           x.dtype, weight.dtype,           x_alignment(args.input) == 16};
  const ProductDevice device{session.facts().capability, session.facts().num_processors, session.facts().shared_bytes,
                             false};
  const ProductChoice choice = choose_product(shape, device);
  args.tile = choice.tile;
  args.tier = choice.tier;
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
