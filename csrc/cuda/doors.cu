// Doors for tests and benchmarks to what the page of ops does not show: each kernel of a matmul by itself, the pass
// that follows CUTLASS's, the choice among them. C functions, the same in the module _cuda and in the imitation.
#include <cstdio>
#include <exception>

#include "core/parallel.h"
#include "cuda/device/session.h"
#include "cuda/kernels.h"
#include "cuda/matmul/matmul.h"
#include "cuda/measure_peak.h"
#include "cuda/pack.h"

namespace {

using namespace llada;
using namespace llada::cuda;

// A matmul of arrays of the process.
struct Call {
  const void* x;  // (any number of rows, num_inputs) as the page has rows
  const void* weight;
  const float* scales;
  const std::int32_t* row_index;  // (num_rows)
  void* out;                      // (num_rows, out_cols)
  std::int64_t x_bytes, out_bytes;
  std::int64_t num_rows, num_outputs, num_inputs, out_cols;
  std::int32_t rows, weight_type, out_type, end, tier, tile, cutlass_tile, paired;
};

// The same of arrays on the device, with the weight packed (cuda/kernels.h).
struct DeviceCall {
  const void* x;  // (num_rows, num_inputs)
  const void* weight;
  void* out;
  float* sums;  // (num_rows, outputs as packed), where a pass follows the product; may be nullptr elsewhere
  std::int64_t num_rows, num_outputs, num_inputs, out_cols;
  std::int32_t rows, weight_type, out_type, end, tier, tile, cutlass_tile, paired, early_launch, unused;
};

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

template <class AnyCall>
PackedWeight form_of(const AnyCall& call) {
  return {nullptr, static_cast<DType>(call.weight_type), call.num_outputs, call.num_inputs, call.paired != 0};
}

template <class AnyCall>
MatmulArgs args_of(const AnyCall& call, const PackedWeight& weight, const void* x, void* out) {
  MatmulArgs args{};
  args.rows = static_cast<DType>(call.rows);
  args.weight = weight.dtype;
  args.input = matmul_input(ConstTensor(x, args.rows, call.num_rows, call.num_inputs), weight);
  const std::int64_t num_values = call.paired != 0 ? call.num_outputs / 2 : call.num_outputs;
  args.out = {out, call.out_cols, num_values, static_cast<DType>(call.out_type), static_cast<MatmulEnd>(call.end)};
  args.num_inputs = call.num_inputs;
  args.tier = static_cast<MatmulTier>(call.tier);
  args.tile = static_cast<MatmulTileShape>(call.tile);
  args.cutlass_tile = static_cast<CutlassTileShape>(call.cutlass_tile);
  return args;
}

// A copy of an array of the process on the device, while it lives.
class Copy {
 public:
  Copy(Session& session, const void* host, std::int64_t num_bytes)
      : session_(session), num_bytes_(num_bytes), data(host == nullptr ? nullptr : session.allocate(num_bytes)) {
    if (data != nullptr) session.upload(host, num_bytes, data);
  }
  ~Copy() {
    if (data != nullptr) session_.release(data);
  }
  Copy(const Copy&) = delete;
  Copy& operator=(const Copy&) = delete;
  void fetch(void* host) const { session_.download(data, num_bytes_, host); }

 private:
  Session& session_;
  const std::int64_t num_bytes_;

 public:
  void* const data;
};

// Runs run(session, packed weight, whether it is finite).
template <class Run>
int with_packed(const Call& call, const Run& run) {
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
    run(session, weight, finite);
    session.release(packed);
  });
}

// Runs run(args, stream) with everything on the device, and brings the output back.
template <class Run>
int with_matmul(const Call& call, const Run& run) {
  return with_packed(call, [&](Session& session, const PackedWeight& weight, bool) {
    const Copy x(session, call.x, call.x_bytes), out(session, call.out, call.out_bytes);
    const Copy row_index(session, call.row_index, 4 * call.num_rows);
    MatmulArgs args = args_of(call, weight, x.data, out.data);
    args.input.row_index = static_cast<const std::int32_t*>(row_index.data);
    if (needs_sums(args)) args.sums = static_cast<float*>(session.scratch(4 * call.num_rows * args.input.num_outputs));
    run(session, args);
    out.fetch(call.out);
  });
}

}  // namespace

#define LLADA_DOOR extern "C" __attribute__((visibility("default")))

LLADA_DOOR std::int64_t llada_packed_bytes(const Call* call) { return packed_bytes(form_of(*call)); }

// packed: as on the device; finite: what pack said.
LLADA_DOOR int llada_pack(const Call* call, void* packed, std::int32_t* finite) {
  return with_packed(*call, [&](Session& session, const PackedWeight& weight, bool is_finite) {
    session.download(weight.data, packed_bytes(weight), packed);
    *finite = is_finite ? 1 : 0;
  });
}

LLADA_DOOR int llada_matmul(const Call* call) {
  return with_matmul(*call, [](Session& session, const MatmulArgs& args) { run_matmul(args, session.stream()); });
}

// sums: (num_rows, outputs as packed), of the process
LLADA_DOOR int llada_finish_sums(const Call* call, const float* sums) {
  return with_matmul(*call, [&](Session& session, const MatmulArgs& args) {
    const Copy on_device(session, sums, 4 * call->num_rows * args.input.num_outputs);
    finish_sums(args.input, args.out, static_cast<const float*>(on_device.data), args.rows != DType::kBFloat16,
                session.stream());
    wait_for(session.stream());
  });
}

// Only launches; the caller waits. stream: of the device that is current.
LLADA_DOOR int llada_matmul_on_device(const DeviceCall* call, void* stream) {
  return guarded([&] {
    PackedWeight weight = form_of(*call);
    weight.data = call->weight;
    MatmulArgs args = args_of(*call, weight, call->x, call->out);
    if (needs_sums(args)) args.sums = call->sums;
    args.early_launch = call->early_launch;
    const EarlyLaunch early(call->early_launch != 0);
    run_matmul(args, static_cast<cudaStream_t>(stream));
  });
}

// choice: tier, tile, tile of CUTLASS
LLADA_DOOR void llada_choose_matmul(const std::int64_t* shape, const std::int64_t* device, std::int32_t* choice) {
  const MatmulChoice chosen = choose_matmul(
      {shape[0], shape[1], shape[2], static_cast<DType>(shape[3]), static_cast<DType>(shape[4]), shape[5] != 0, false},
      {static_cast<int>(device[0]), device[1], device[2], device[3] != 0});
  choice[0] = static_cast<std::int32_t>(chosen.tier);
  choice[1] = static_cast<std::int32_t>(chosen.tile);
  choice[2] = static_cast<std::int32_t>(chosen.cutlass_tile);
}

LLADA_DOOR double llada_read_bandwidth() { return measure_read_bandwidth(0); }
