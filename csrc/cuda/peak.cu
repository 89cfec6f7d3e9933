#include <algorithm>
#include <chrono>

#include "cuda/kernels.h"
#include "cuda/peak.cuh"
#include "cuda/peak.h"
#include "cuda/session.h"

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

template <class Peak>
double best_rate(Session& session) {
  const int num_blocks = 2 * session.facts().num_processors;
  float* const out = static_cast<float*>(session.scratch(static_cast<std::int64_t>(num_blocks) * kPeakThreads * 4));
  const auto seconds = [&](int num_rounds) {
    return seconds_of(session, [&] {
      launch("peak", peak_kernel<Peak>, dim3(static_cast<unsigned>(num_blocks)), kPeakThreads, 0, session.stream(), out,
             num_rounds);
    });
  };
  int num_rounds = 8;
  while (seconds(num_rounds) < kBurstSeconds && num_rounds < 1 << 28) num_rounds *= 2;
  double best = seconds(num_rounds);
  for (int burst = 1; burst < kNumBursts; ++burst) best = std::min(best, seconds(num_rounds));
  const double warp_steps = static_cast<double>(num_blocks) * (kPeakThreads / 32) * kPeakChains * num_rounds;
  return warp_steps * Peak::kWarpFlop / best * 1e-9;
}

}  // namespace

double measure_peak(Stream stream, DType dtype) {
  Session& session = session_of(stream);
  set_device(session.facts().index);
  if (dtype == DType::kInt8) return best_rate<Int8Peak>(session);
  if (dtype == DType::kFloat8) return best_rate<Float8Peak>(session);
  if (dtype == DType::kBFloat16) return best_rate<Bf16Peak>(session);
  return best_rate<Float32Peak>(session);
}

double measure_read_bandwidth(Stream stream) {
  Session& session = session_of(stream);
  const std::int64_t num_bytes = std::max<std::int64_t>(std::int64_t{16} << 20, 20 * session.facts().l2_bytes);
  const int num_blocks = 8 * session.facts().num_processors;
  auto* const out = static_cast<std::uint32_t*>(session.scratch(std::int64_t{4} * num_blocks * kPeakThreads));
  void* const memory = session.allocate(num_bytes);
  double best = 0;
  try {
    session.clear(memory, num_bytes);
    for (int burst = 0; burst < kNumBursts; ++burst) {
      const double seconds = seconds_of(session, [&] {
        launch("read", read_kernel, dim3(static_cast<unsigned>(num_blocks)), kPeakThreads, 0, session.stream(),
               static_cast<const uint4*>(memory), num_bytes / 16, out);
      });
      best = std::max(best, static_cast<double>(num_bytes) / seconds * 1e-9);
    }
  } catch (...) {
    session.release(memory);
    throw;
  }
  session.release(memory);
  return best;
}

}  // namespace llada::cuda
