// The thread pool under stress: each index once, exceptions come back, the pool goes on. Run by
// tests/test_thread_pool.py; by hand:
//   cmake -S . -B build/tsan -DLLADA_NATIVE_TESTS=ON -DLLADA_SANITIZE=thread && cmake --build build/tsan --target
//   test_parallel
//   && build/tsan/test_parallel
#include <atomic>
#include <chrono>
#include <cstdio>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/parallel.h"

namespace {

int failures = 0;

void expect(bool ok, const char* what) {
  if (!ok) {
    std::printf("failed: %s\n", what);
    ++failures;
  }
}

void each_index_once(llada::ThreadPool& pool, std::int64_t count) {
  std::vector<int> seen(static_cast<std::size_t>(count), 0);  // plain ints: two visits of one index would be a race
  llada::parallel_for(pool, count, [&](std::int64_t i, int worker) {
    expect(worker >= 0 && worker < pool.num_threads(), "worker in range");
    ++seen[static_cast<std::size_t>(i)];
  });
  expect(std::accumulate(seen.begin(), seen.end(), std::int64_t{0}) == count, "each index once");
}

void exception_comes_back(llada::ThreadPool& pool) {
  bool caught = false;
  try {
    llada::parallel_for(pool, 1000, [](std::int64_t i, int) {
      if (i == 333) throw std::runtime_error("333");
    });
  } catch (const std::runtime_error&) {
    caught = true;
  }
  expect(caught, "exception comes back");
}

}  // namespace

int main() {
  for (const int num_threads : {1, 2, 3, 8}) {
    llada::ThreadPool pool(num_threads);
    for (int round = 0; round < 300; ++round)
      for (const std::int64_t count : {0, 1, 2, 7, 64, 1000}) each_index_once(pool, count);
    for (int round = 0; round < 50; ++round) exception_comes_back(pool);
    for (int round = 0; round < 50; ++round) {  // the workers are asleep by then, or just falling asleep
      std::this_thread::sleep_for(std::chrono::microseconds(10 * round));
      each_index_once(pool, 64);
    }
    each_index_once(pool, 100);
    pool.scratch(0, 100)[99] = 1;
    pool.shared_scratch(100)[99] = 1;
  }
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
