#include "core/parallel.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <system_error>
#include <utility>

#include "core/check.h"

namespace llada {
namespace {

constexpr auto kSpin = std::chrono::microseconds(40);

constexpr std::int64_t kMostIndices = INT32_MAX;
constexpr std::uint64_t kStop = 1;  // bounds [1, 0), which no job has

std::uint64_t bounds_of(std::int64_t begin, std::int64_t end) {
  return static_cast<std::uint64_t>(begin) | static_cast<std::uint64_t>(end) << 32;
}
std::int64_t begin_of(std::uint64_t bounds) { return static_cast<std::int64_t>(bounds & 0xffffffffu); }
std::int64_t end_of(std::uint64_t bounds) { return static_cast<std::int64_t>(bounds >> 32); }

// Shares only shrink until all are empty, so whoever still finds the bounds that it read may take an index, even if
// they are those of a later job by now.
bool take_first(std::atomic<std::uint64_t>& from, std::int64_t& index) {
  std::uint64_t bounds = from.load(std::memory_order_relaxed);
  do {
    index = begin_of(bounds);
    if (index >= end_of(bounds)) return false;
  } while (!from.compare_exchange_weak(bounds, bounds_of(index + 1, end_of(bounds)), std::memory_order_acq_rel));
  return true;
}

bool take_last(std::atomic<std::uint64_t>& from, std::int64_t& index) {
  std::uint64_t bounds = from.load(std::memory_order_relaxed);
  do {
    index = end_of(bounds) - 1;
    if (index < begin_of(bounds)) return false;
  } while (!from.compare_exchange_weak(bounds, bounds_of(begin_of(bounds), index), std::memory_order_acq_rel));
  return true;
}

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
      threads_(std::make_unique<std::vector<std::thread>>()),
      shares_(std::make_unique<Share[]>(static_cast<std::size_t>(num_threads_))) {
  scratch_.resize(static_cast<std::size_t>(num_threads_));
  threads_->reserve(static_cast<std::size_t>(num_threads_));
  for (int worker = 1; worker < num_threads_; ++worker) {
    try {
      threads_->emplace_back([this, worker] { work(worker); });
    } catch (const std::system_error& error) {
      stop();
      fail(ErrorKind::kDevice, "threads: expected to start ", num_threads_, ", the system let ", worker,
           " of them start (", error.code().message(), "): ask for fewer");
    }
  }
}

ThreadPool::~ThreadPool() {
  if (is_forked_child())
    static_cast<void>(threads_.release());
  else
    stop();
}

void ThreadPool::stop() {
  for (int w = 1; w < num_threads_; ++w) {
    Share& share = shares_[static_cast<std::size_t>(w)];
    share.bounds.store(kStop);
    share.asleep.store(0);
    share.asleep.notify_one();
  }
  for (std::thread& thread : *threads_) thread.join();
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
  for (int w = 0; w < num_threads_; ++w) {
    shares_[static_cast<std::size_t>(w)].task = task;
    shares_[static_cast<std::size_t>(w)].context = context;
  }
  num_called_ += count;
  for (int w = 0; w < num_threads_; ++w) {
    Share& share = shares_[static_cast<std::size_t>(w)];
    const std::int64_t begin = count * w / num_threads_, end = count * (w + 1) / num_threads_;
    share.bounds.store(bounds_of(begin, end), std::memory_order_release);
    // Only who has something to do is woken. A worker that falls asleep just now may be missed; then the others take
    // its share.
    if (begin < end && share.asleep.load(std::memory_order_relaxed) != 0) {
      share.asleep.store(0);
      share.asleep.notify_one();
    }
  }
  work_through(0);
  while (!spin_until([this] { return is_done(); })) std::this_thread::yield();
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

// No job ends before all of its indices are done, and whoever has taken one knows that its job has not ended. So a
// worker that the machine has not scheduled yet holds nobody up, and when it comes it can do no harm to a later job: it
// takes an index of that one, or nothing.
bool ThreadPool::is_done() const {
  std::int64_t num_done = 0;
  for (int w = 0; w < num_threads_; ++w)
    num_done += shares_[static_cast<std::size_t>(w)].num_done.load(std::memory_order_acquire);
  return num_done == num_called_;
}

void ThreadPool::work_through(int worker) {
  Share& own = shares_[static_cast<std::size_t>(worker)];
  std::int64_t num_done = 0;
  try {
    for (std::int64_t index = 0; take_first(own.bounds, index) || take_from_others(worker, index);) {
      ++num_done;
      own.task(own.context, index, worker);
    }
  } catch (...) {
    give_up(num_done);
  }
  own.num_done.fetch_add(num_done, std::memory_order_release);
}

bool ThreadPool::take_from_others(int worker, std::int64_t& index) {
  for (int i = 1; i < num_threads_; ++i)
    if (take_last(shares_[static_cast<std::size_t>((worker + i) % num_threads_)].bounds, index)) return true;
  return false;
}

// Keeps the exception being handled, and takes what nobody has begun as done.
void ThreadPool::give_up(std::int64_t& num_done) {
  {
    const std::lock_guard<std::mutex> lock(error_mutex_);
    if (!error_) error_ = std::current_exception();
  }
  for (int w = 0; w < num_threads_; ++w) {
    const std::uint64_t bounds = shares_[static_cast<std::size_t>(w)].bounds.exchange(0, std::memory_order_acq_rel);
    num_done += end_of(bounds) - begin_of(bounds);
  }
}

void ThreadPool::work(int worker) {
  Share& own = shares_[static_cast<std::size_t>(worker)];
  const auto called = [&] {
    const std::uint64_t bounds = own.bounds.load();
    return begin_of(bounds) < end_of(bounds) || bounds == kStop;
  };
  for (;;) {
    while (!spin_until(called)) {
      own.asleep.store(1);
      if (!called()) own.asleep.wait(1);
      own.asleep.store(0);
    }
    if (own.bounds.load() == kStop) return;
    work_through(worker);
  }
}

}  // namespace llada
