// Doors to what the page of ops does not show of products: each tile by itself, the choice among them, and the pass
// that follows products of another tier.
#include <cstdio>
#include <exception>

#include "core/parallel.h"
#include "cuda/gemm_tiles.h"
#include "cuda/kernels.h"
#include "cuda/pack.h"
#include "cuda/peak.h"
#include "cuda/session.h"

namespace {

using namespace llada;
using namespace llada::cuda;

// What a test gives; addresses are those of arrays in memory, which is the device's here.
struct Call {
  const void* x;  // (num_rows, num_inputs) as the page has rows
  const void* weight;
  const float* scales;
  const std::int32_t* row_index;
  void* out;
  std::int64_t num_rows, num_outputs, num_inputs, out_cols;
  std::int32_t rows, weight_type, out_type, end, tile, paired;
};

void run_tile(const Call& call, const ProductInput& input, const ProductOutput& out, cudaStream_t stream) {
  const auto rows = static_cast<DType>(call.rows), weight = static_cast<DType>(call.weight_type);
  const auto tile = static_cast<ProductTileShape>(call.tile);
  if (weight == DType::kFloat32) return run_float32(input, out, stream);
  if (weight == DType::kInt4) return run_bf16_int4(input, out, tile, stream);
  if (weight == DType::kFloat8) return run_float8(input, out, tile, stream);
  if (rows == DType::kInt8) return run_int8(input, out, tile, stream);
  return weight == DType::kInt8 ? run_bf16_int8(input, out, tile, stream) : run_bf16(input, out, tile, stream);
}

template <class Run>
int guarded(const Run& run) {
  try {
    run();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

PackedWeight form_of(const Call& call) {
  return {nullptr, static_cast<DType>(call.weight_type), call.num_outputs, call.num_inputs, call.paired != 0};
}

// Runs run(packed weight, whether it is finite, stream).
template <class Run>
int with_packed_bytes(const Call& call, const Run& run) {
  return guarded([&] {
    ThreadPool pool(2);
    Session session(0, nullptr);
    Stream stream;
    stream.pool = &pool;
    stream.session = &session;
    PackedWeight weight = form_of(call);
    void* const packed = session.allocate(packed_bytes(weight));
    const DType stored_type = is_float(weight.dtype) ? DType::kFloat32 : weight.dtype;
    const ConstTensor stored(call.weight, stored_type, call.num_outputs, call.num_inputs);
    const bool finite = pack(stream, {stored, call.scales}, weight, packed);
    weight.data = packed;
    run(weight, finite, session.stream());
    session.release(packed);
  });
}

// Runs run(input, output, stream) with the weight packed as on a device.
template <class Run>
int with_packed(const Call& call, const Run& run) {
  return with_packed_bytes(call, [&](const PackedWeight& weight, bool, cudaStream_t stream) {
    const auto rows = static_cast<DType>(call.rows);
    ProductInput input = product_input(ConstTensor(call.x, rows, call.num_rows, call.num_inputs), weight);
    input.row_index = call.row_index;
    const std::int64_t num_values = call.paired != 0 ? call.num_outputs / 2 : call.num_outputs;
    const ProductOutput out{call.out, call.out_cols, num_values, static_cast<DType>(call.out_type),
                            static_cast<ProductEnd>(call.end)};
    run(input, out, stream);
  });
}

}  // namespace

#define LLADA_DOOR extern "C" __attribute__((visibility("default")))

LLADA_DOOR std::int64_t llada_packed_bytes(const Call* call) { return packed_bytes(form_of(*call)); }

// packed: as on the device; finite: what pack said.
LLADA_DOOR int llada_pack(const Call* call, void* packed, std::int32_t* finite) {
  return with_packed_bytes(*call, [&](const PackedWeight& weight, bool is_finite, cudaStream_t stream) {
    copy_to_host(packed, weight.data, packed_bytes(weight), stream);
    *finite = is_finite ? 1 : 0;
  });
}

LLADA_DOOR int llada_product_tile(const Call* call) {
  return with_packed(*call, [&](const ProductInput& input, const ProductOutput& out, cudaStream_t stream) {
    run_tile(*call, input, out, stream);
  });
}

// sums: (num_rows, outputs as packed)
LLADA_DOOR int llada_finish_sums(const Call* call, const float* sums) {
  return with_packed(*call, [&](const ProductInput& input, const ProductOutput& out, cudaStream_t stream) {
    finish_sums(input, out, sums, call->rows != static_cast<std::int32_t>(DType::kBFloat16), stream);
  });
}

// choice: tier, tile, tile of CUTLASS
LLADA_DOOR void llada_choose_product(const std::int64_t* shape, const std::int64_t* device, std::int32_t* choice) {
  const ProductChoice chosen = choose_product(
      {shape[0], shape[1], shape[2], static_cast<DType>(shape[3]), static_cast<DType>(shape[4]), shape[5] != 0},
      {static_cast<int>(device[0]), device[1], device[2], device[3] != 0});
  choice[0] = static_cast<std::int32_t>(chosen.tier);
  choice[1] = static_cast<std::int32_t>(chosen.tile);
  choice[2] = static_cast<std::int32_t>(chosen.cutlass_tile);
}

LLADA_DOOR int llada_is_proven(std::int32_t tier) { return proof_of(static_cast<ProductTier>(tier)) != nullptr; }

LLADA_DOOR double llada_read_bandwidth() { return measure_read_bandwidth(0); }
