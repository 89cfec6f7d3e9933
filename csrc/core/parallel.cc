#include "core/parallel.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace llada {
namespace {

constexpr auto kSpin = std::chrono::microseconds(40);

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Spins until done() or the time is up; true if done.
template <class Done>
bool spin_until(const Done& done) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (done()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return done();
}

}  // namespace

ThreadPool::ThreadPool(int num_threads)
    : num_threads_(std::max(1, num_threads)), owner_pid_(getpid()), workers_(std::make_unique<Workers>()) {
  scratch_.resize(static_cast<std::size_t>(num_threads_));
  for (int worker = 1; worker < num_threads_; ++worker)
    workers_->threads.emplace_back([this, worker] { work(worker); });
}

ThreadPool::~ThreadPool() {
  if (is_forked_child()) {
    static_cast<void>(workers_.release());
    return;
  }
  {
    const std::lock_guard<std::mutex> lock(workers_->mutex);
    workers_->stop = true;
  }
  workers_->wake.notify_all();
  for (auto& thread : workers_->threads) thread.join();
}

bool ThreadPool::is_forked_child() const { return owner_pid_ != getpid(); }

char* ThreadPool::scratch(int worker, std::int64_t num_bytes) {
  Buffer& buffer = scratch_[static_cast<std::size_t>(worker)];
  buffer.reserve(num_bytes);
  std::int64_t most = most_scratch_.load(std::memory_order_relaxed);
  while (most < num_bytes && !most_scratch_.compare_exchange_weak(most, num_bytes, std::memory_order_relaxed)) {
  }
  return buffer.data();
}

char* ThreadPool::shared_scratch(std::int64_t num_bytes) {
  shared_scratch_.reserve(num_bytes);
  return shared_scratch_.data();
}

// Gives each worker what the neediest has asked for so far. Who takes which index is chance: without this a worker
// might ask for its first memory long after the others.
void ThreadPool::even_out_scratch() {
  const std::int64_t most = most_scratch_.load(std::memory_order_relaxed);
  if (most == even_scratch_) return;
  for (Buffer& buffer : scratch_) buffer.reserve(most);
  even_scratch_ = most;
}

void ThreadPool::run(std::int64_t count, Task task, const void* context) {
  if (count <= 0) return;
  even_out_scratch();
  // In a forked child there is nobody to wait for: the caller does the work alone.
  if (num_threads_ == 1 || count == 1 || is_forked_child()) {
    for (std::int64_t i = 0; i < count; ++i) task(context, i, 0);
    return;
  }
  task_ = task;
  context_ = context;
  count_ = count;
  // About eight chunks a worker: small enough to even out, large enough to keep the counter cold.
  chunk_ = std::max<std::int64_t>(1, count / (8 * num_threads_));
  next_.store(0, std::memory_order_relaxed);
  workers_->open.store(true);
  {
    const std::lock_guard<std::mutex> lock(workers_->mutex);
    workers_->generation.fetch_add(1, std::memory_order_release);
  }
  if (workers_->num_asleep.load(std::memory_order_acquire) > 0) workers_->wake.notify_all();
  take_chunks(0);
  workers_->open.store(false);
  const auto finished = [this] { return workers_->num_inside.load() == 0; };
  while (!spin_until(finished)) std::this_thread::yield();
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::take_chunks(int worker) {
  try {
    for (;;) {
      const std::int64_t begin = next_.fetch_add(chunk_, std::memory_order_relaxed);
      if (begin >= count_) return;
      const std::int64_t end = std::min(count_, begin + chunk_);
      for (std::int64_t i = begin; i < end; ++i) task_(context_, i, worker);
    }
  } catch (...) {
    next_.store(count_, std::memory_order_relaxed);
    std::lock_guard<std::mutex> lock(error_mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

void ThreadPool::work(int worker) {
  Workers& w = *workers_;
  std::uint64_t seen = 0;
  for (;;) {
    const auto called = [&] { return w.generation.load(std::memory_order_acquire) != seen || w.stop.load(); };
    if (!spin_until(called)) {
      std::unique_lock<std::mutex> lock(w.mutex);
      w.num_asleep.fetch_add(1, std::memory_order_acq_rel);
      w.wake.wait(lock, called);
      w.num_asleep.fetch_sub(1, std::memory_order_acq_rel);
    }
    if (w.stop.load()) return;
    seen = w.generation.load(std::memory_order_acquire);
    w.num_inside.fetch_add(1);
    if (w.open.load()) take_chunks(worker);
    w.num_inside.fetch_sub(1);
  }
}

}  // namespace llada
