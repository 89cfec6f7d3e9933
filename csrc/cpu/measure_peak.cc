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

LLADA_INLINE F32 as_float(F32 v) { return v; }
LLADA_INLINE F32 as_float(I32 v) { return to_float(v); }

template <class Step>
float spin(std::int64_t num_rounds) {
  constexpr int kAccumulators = Step::kRows * kTileVectors;
  alignas(64) char a[4 * Step::kRows] = {};
  alignas(64) char b[64 * kTileVectors] = {};
  typename Step::Sum acc[kAccumulators];
#pragma GCC unroll 24
  for (int i = 0; i < kAccumulators; ++i) acc[i] = Step::zero();
  for (std::int64_t round = 0; round < num_rounds; ++round) {
    asm volatile("" : "+m"(a), "+m"(b));  // for all the compiler knows the operands are new: nothing can be hoisted
#pragma GCC unroll 24
    for (int i = 0; i < kAccumulators; ++i)
      acc[i] = Step::step(acc[i], a + 4 * (i / kTileVectors), b + 64 * (i % kTileVectors));
  }
  F32 total = zero();
#pragma GCC unroll 24
  for (int i = 0; i < kAccumulators; ++i) total = total + as_float(acc[i]);
  return sum(total);
}

template <class Step>
double best_rate(Stream stream, std::int64_t pack) {
  constexpr std::int64_t kRounds = 20000;
  const int num_threads = stream.pool->num_threads();
  const std::int64_t flop = 2 * pack * kLanes * Step::kRows * kTileVectors * kRounds * num_threads;
  double best = 0;
  for (int burst = 0; burst < 200; ++burst) {
    const double begin = now();
    parallel_for(*stream.pool, num_threads, [&](std::int64_t, int) {
      float total = spin<Step>(kRounds);
      asm volatile("" : "+m"(total));  // somebody reads it
    });
    const double rate = static_cast<double>(flop) / (now() - begin) * 1e-9;
    best = rate > best ? rate : best;
  }
  return best;
}

}  // namespace

double measure_peak(Stream stream, DType dtype) {
  if (dtype == DType::kInt8) return best_rate<Int8Step>(stream, pack_of(dtype));
  if (dtype == DType::kBFloat16) return best_rate<BFloat16Step>(stream, pack_of(dtype));
  return best_rate<Float32Step>(stream, pack_of(dtype));
}

}  // namespace llada::cpu::LLADA_TABLE
