// One thread pool per engine. Each worker gets an equal share of the index range. A worker that is through with its own
// share takes from the end of another's. So neighbouring indices, which are weights one after the other in memory, go
// to one core, and to the same core in every step. Workers spin for some tens of microseconds after a job, since the
// next op of the step follows at once, and then sleep. The caller works too.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/tensor.h"

namespace llada {

class ThreadPool {
 public:
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  using Task = void (*)(const void* context, std::int64_t index, int worker);

  // Runs task(context, i, worker) for each i in [0, count), 0 <= worker < num_threads. Which worker takes which index
  // is not fixed: results must not depend on it. One job at a time; the first exception is thrown again here.
  void run(std::int64_t count, Task task, const void* context);

  // Scratch memory of one worker, at least num_bytes, kept between jobs. Only that worker may use it during a job.
  char* scratch(int worker, std::int64_t num_bytes);

  // Scratch memory of the caller, for what the workers of one job hand over; not the memory of worker 0.
  char* shared_scratch(std::int64_t num_bytes);

 private:
  // One worker's share of a job, on a cache line of its own: a call takes one transfer from core to core.
  struct alignas(64) Share {
    std::atomic<std::uint64_t> bounds{0};   // indices [begin, end) that nobody has begun: begin in the low half
    std::atomic<std::int64_t> num_done{0};  // indices that this worker is through with, in all jobs so far
    Task task = nullptr;                    // may be read once an index of the job has been taken
    const void* context = nullptr;
    std::atomic<int> asleep{0};
  };

  void stop();  // ends and joins the workers that were started
  void even_out_scratch();
  void work(int worker);
  void work_through(int worker);
  void give_up(std::int64_t& num_done);
  bool take_from_others(int worker, std::int64_t& index);
  bool is_done() const;
  bool is_forked_child() const;

  const int num_threads_;
  const int owner_pid_;
  std::unique_ptr<std::vector<std::thread>> threads_;  // in a forked child they are gone, and nobody may join them
  std::vector<Buffer> scratch_;                        // by worker
  Buffer shared_scratch_;
  std::atomic<std::int64_t> most_scratch_{0};  // that a worker has asked for
  std::int64_t even_scratch_ = 0;              // that each worker has

  std::unique_ptr<Share[]> shares_;  // by worker
  std::int64_t num_called_ = 0;      // indices, in all jobs so far
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

// parallel_for(pool, count, [&](std::int64_t index, int worker) { ... });
template <class Function>
void parallel_for(ThreadPool& pool, std::int64_t count, const Function& function) {
  pool.run(
      count,
      [](const void* context, std::int64_t index, int worker) {
        (*static_cast<const Function*>(context))(index, worker);
      },
      &function);
}

}  // namespace llada
