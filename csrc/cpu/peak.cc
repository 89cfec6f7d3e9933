// What the machine could do at best: the inner step of the tile kernel, its operands in the nearest cache.
#include <time.h>

#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/simd/tile.h"

namespace llada::cpu::LLADA_TABLE {
namespace {

double now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

constexpr int kAccumulators = kTileRows * kTileVectors;

template <class Step>
float spin(std::int64_t num_rounds) {
  alignas(64) char a[4 * kTileRows] = {};
  alignas(64) char b[64 * kTileVectors] = {};
  F32 acc[kAccumulators];
#pragma GCC unroll 24
  for (int i = 0; i < kAccumulators; ++i) acc[i] = set1(static_cast<float>(i));
  for (std::int64_t round = 0; round < num_rounds; ++round) {
    asm volatile("" : "+m"(a), "+m"(b));  // for all the compiler knows the operands are new: nothing can be hoisted
#pragma GCC unroll 24
    for (int i = 0; i < kAccumulators; ++i)
      acc[i] = Step::step(acc[i], a + 4 * (i / kTileVectors), b + 64 * (i % kTileVectors));
  }
  F32 total = zero();
#pragma GCC unroll 24
  for (int i = 0; i < kAccumulators; ++i) total = total + acc[i];
  return sum(total);
}

}  // namespace

double measure_peak(Stream stream, DType dtype) {
  constexpr std::int64_t kRounds = 20000;
  const int num_threads = stream.pool->num_threads();
  const double pack = static_cast<double>(pack_of(dtype));
  const double flop = 2.0 * pack * kLanes * kAccumulators * static_cast<double>(kRounds) * num_threads;
  double best = 0;
  for (int burst = 0; burst < 200; ++burst) {
    float sink[2] = {};
    const double begin = now();
    parallel_for(*stream.pool, num_threads, [&](std::int64_t, int) {
      const float value = dtype == DType::kFloat32 ? spin<Float32Step>(kRounds) : spin<BFloat16Step>(kRounds);
      if (value < 0) __atomic_store_n(reinterpret_cast<int*>(sink), 1, __ATOMIC_RELAXED);
    });
    const double rate = flop / (now() - begin) * 1e-9;
    best = rate > best ? rate : best;
  }
  return best;
}

}  // namespace llada::cpu::LLADA_TABLE
