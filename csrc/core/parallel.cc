#include "core/parallel.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "core/check.h"

namespace llada {
namespace {

constexpr auto kSpin = std::chrono::microseconds(40);

constexpr std::int64_t kMostIndices = INT32_MAX;

std::uint64_t part_of(std::int64_t begin, std::int64_t end) {
  return static_cast<std::uint64_t>(begin) | static_cast<std::uint64_t>(end) << 32;
}
std::int64_t begin_of(std::uint64_t bounds) { return static_cast<std::int64_t>(bounds & 0xffffffffu); }
std::int64_t end_of(std::uint64_t bounds) { return static_cast<std::int64_t>(bounds >> 32); }

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
    : num_threads_(std::max(1, num_threads)),
      owner_pid_(getpid()),
      workers_(std::make_unique<Workers>()),
      parts_(std::make_unique<Part[]>(static_cast<std::size_t>(num_threads_))) {
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
  check(count <= kMostIndices, ErrorKind::kInternal, "expected at most ", kMostIndices, " units of work, got ", count);
  task_ = task;
  context_ = context;
  for (int w = 0; w < num_threads_; ++w)
    parts_[static_cast<std::size_t>(w)].bounds.store(part_of(count * w / num_threads_, count * (w + 1) / num_threads_),
                                                     std::memory_order_relaxed);
  workers_->open.store(true);
  {
    const std::lock_guard<std::mutex> lock(workers_->mutex);
    workers_->generation.fetch_add(1, std::memory_order_release);
  }
  if (workers_->num_asleep.load(std::memory_order_acquire) > 0) workers_->wake.notify_all();
  work_through(0);
  workers_->open.store(false);
  const auto finished = [this] { return workers_->num_inside.load() == 0; };
  while (!spin_until(finished)) std::this_thread::yield();
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::work_through(int worker) {
  Part& own = parts_[static_cast<std::size_t>(worker)];
  try {
    do {
      for (std::int64_t index = 0; take_next(own, index);) task_(context_, index, worker);
    } while (steal(worker));
  } catch (...) {
    for (int w = 0; w < num_threads_; ++w) parts_[static_cast<std::size_t>(w)].bounds.store(0);
    std::lock_guard<std::mutex> lock(error_mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

bool ThreadPool::take_next(Part& own, std::int64_t& index) {
  std::uint64_t bounds = own.bounds.load(std::memory_order_relaxed);
  do {
    index = begin_of(bounds);
    if (index >= end_of(bounds)) return false;
  } while (!own.bounds.compare_exchange_weak(bounds, part_of(index + 1, end_of(bounds)), std::memory_order_acq_rel));
  return true;
}

// The second half of what another has left becomes the worker's own part, which is empty. Bounds tell all there is to
// know of a part, so one that another worker took and gave back meanwhile is no other part.
bool ThreadPool::steal(int worker) {
  for (int i = 1; i < num_threads_; ++i) {
    Part& from = parts_[static_cast<std::size_t>((worker + i) % num_threads_)];
    std::uint64_t bounds = from.bounds.load(std::memory_order_relaxed);
    for (;;) {
      const std::int64_t begin = begin_of(bounds), end = end_of(bounds);
      if (begin >= end) break;
      const std::int64_t middle = begin + (end - begin) / 2;
      if (from.bounds.compare_exchange_weak(bounds, part_of(begin, middle), std::memory_order_acq_rel)) {
        parts_[static_cast<std::size_t>(worker)].bounds.store(part_of(middle, end), std::memory_order_release);
        return true;
      }
    }
  }
  return false;
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
    if (w.open.load()) work_through(worker);
    w.num_inside.fetch_sub(1);
  }
}

}  // namespace llada
