#include <algorithm>
#include <chrono>

#include "cuda/cutlass/matmul.h"
#include "cuda/device/session.h"
#include "cuda/kernels.h"
#include "cuda/measure_peak.cuh"
#include "cuda/measure_peak.h"

namespace llada::cuda {
namespace {

constexpr double kBurstSeconds = 5e-3;  // beside which the launch is nothing
constexpr int kNumBursts = 10;

template <class Work>
double seconds_of(Session& session, const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  wait_for(session.stream());
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// GFLOP/s of run(num_rounds, out), which returns its operations. out: float32, one for each thread of two blocks for
// each multiprocessor.
template <class Run>
double best_rate(Session& session, const Run& run) {
  float* const out =
      static_cast<float*>(session.scratch(std::int64_t{8} * session.facts().num_processors * kPeakThreads));
  double flop = 0;
  const auto seconds = [&](int num_rounds) { return seconds_of(session, [&] { flop = run(num_rounds, out); }); };
  int num_rounds = 8;
  while (seconds(num_rounds) < kBurstSeconds && num_rounds < 1 << 28) num_rounds *= 2;
  double best = seconds(num_rounds);
  for (int burst = 1; burst < kNumBursts; ++burst) best = std::min(best, seconds(num_rounds));
  return flop / best * 1e-9;
}

template <class Peak>
double warp_rate(Session& session) {
  const int num_blocks = 2 * session.facts().num_processors;
  return best_rate(session, [&](int num_rounds, float* out) {
    launch("peak", peak_kernel<Peak>, dim3(static_cast<unsigned>(num_blocks)), kPeakThreads, 0, session.stream(), out,
           num_rounds);
    return Peak::kWarpFlop * num_blocks * (kPeakThreads / 32) * kPeakChains * num_rounds;
  });
}

// By wgmma, where there is that; else 0.
double warp_group_rate(Session& session, bool float8) {
#if defined(LLADA_HAVE_CUTLASS)
  if (session.facts().capability == 90)
    return best_rate(session, [&](int num_rounds, float* out) {
      return run_peak_sm90(float8, session.facts().num_processors, num_rounds, out, session.stream());
    });
#endif
  static_cast<void>(session), static_cast<void>(float8);
  return 0;
}

}  // namespace

double measure_peak(Stream stream, DType dtype) {
  Session& session = session_of(stream);
  set_device(session.facts().index);
  switch (dtype) {
    case DType::kInt8:
      return warp_rate<Int8Peak>(session);
    case DType::kFloat8:
      return std::max(warp_rate<Float8Peak>(session), warp_group_rate(session, true));
    case DType::kBFloat16:
      return std::max(warp_rate<Bf16Peak>(session), warp_group_rate(session, false));
    default:
      return warp_rate<Float32Peak>(session);
  }
}

double measure_read_bandwidth(int index) {
  Session session(index, nullptr);
  const std::int64_t num_bytes = std::max<std::int64_t>(std::int64_t{16} << 20, 20 * session.facts().l2_bytes);
  const int num_blocks = 8 * session.facts().num_processors;
  auto* const out = static_cast<std::uint32_t*>(session.scratch(std::int64_t{4} * num_blocks * kPeakThreads));
  void* const memory = session.allocate(num_bytes);
  double best = 0;
  session.clear(memory, num_bytes);
  for (int burst = 0; burst < kNumBursts; ++burst) {
    const double seconds = seconds_of(session, [&] {
      launch("read", read_kernel, dim3(static_cast<unsigned>(num_blocks)), kPeakThreads, 0, session.stream(),
             static_cast<const uint4*>(memory), num_bytes / 16, out);
    });
    best = std::max(best, static_cast<double>(num_bytes) / seconds * 1e-9);
  }
  session.release(memory);
  return best;
}

}  // namespace llada::cuda
