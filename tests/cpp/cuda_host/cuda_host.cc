// The imitation's threads, and what a warp does together.
#include "cuda_host/cuda_host.h"

#include <ucontext.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/dtype.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_host {
namespace {

constexpr std::size_t kStackBytes = 64 << 10;
constexpr std::int64_t kMostShared = 227 << 10;  // of one block on sm_90

struct Copy {
  void* to;
  const void* from;
  int num_bytes;
  bool valid;
};

struct Thread {
  enum State { kReady, kAtBlock, kAtWarp, kDone };
  State state = kDone;
  unsigned id = 0;
  void* stack_pointer = nullptr;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  unsigned exchanges = 0;
  bool waited = false;                    // for the kernels before this one
  std::vector<std::vector<Copy>> groups;  // of background copies, the last one open
};

std::vector<std::unique_ptr<Thread>> threads;
Thread* self = nullptr;
void* scheduler_stack_pointer = nullptr;
const std::function<void()>* body = nullptr;
std::exception_ptr failure;
thread_local const char* running = nullptr;  // the kernel, of the thread that runs one: others compute for the host
std::vector<Offer> offers[2];                // by thread: a lane may be one exchange ahead of its neighbours, never two
alignas(128) char shared[kMostShared];

// Saves the callee's registers on the stack that is left, and goes on where the other one was left.
extern "C" void cuda_host_switch(void** save, void* to);
#if defined(__x86_64__)
asm(R"(
.text
.globl cuda_host_switch
.type cuda_host_switch, @function
cuda_host_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
#else
#error "the imitation switches stacks on x86-64 only"
#endif

[[noreturn]] void enter() {
  try {
    (*body)();
    if (!self->waited) throw std::logic_error("a thread ended that did not wait for the kernels before this one");
  } catch (...) {
    failure = std::current_exception();
  }
  self->state = Thread::kDone;
  cuda_host_switch(&self->stack_pointer, scheduler_stack_pointer);
  __builtin_unreachable();
}

void prepare(Thread& thread, unsigned id) {
  thread.id = id;
  thread.state = Thread::kReady;
  thread.exchanges = 0;
  thread.waited = false;
  thread.groups.assign(1, {});
  // As cuda_host_switch leaves a stack: six registers, then where to return to; at entry the stack is 8 off 16.
  const auto top = reinterpret_cast<std::uintptr_t>(thread.stack.get() + kStackBytes) / 16 * 16;
  auto* frame = reinterpret_cast<std::uintptr_t*>(top) - 8;
  for (int i = 0; i < 6; ++i) frame[i] = 0;
  frame[6] = reinterpret_cast<std::uintptr_t>(&enter);
  frame[7] = 0;
  thread.stack_pointer = frame;
}

void wait(Thread::State state) {
  self->state = state;
  cuda_host_switch(&self->stack_pointer, scheduler_stack_pointer);
}

void run_block(const char* name, unsigned num_threads) {
  for (unsigned t = 0; t < num_threads; ++t) prepare(*threads[t], t);
  for (;;) {
    unsigned live = 0, ran = 0, at_block = 0, freed = 0;
    for (unsigned t = 0; t < num_threads; ++t) {
      Thread& thread = *threads[t];
      if (thread.state == Thread::kReady) {
        self = &thread;
        threadIdx = dim3(thread.id);
        cuda_host_switch(&scheduler_stack_pointer, thread.stack_pointer);
        ++ran;
        if (failure) std::rethrow_exception(std::exchange(failure, nullptr));
      }
      live += thread.state != Thread::kDone;
      at_block += thread.state == Thread::kAtBlock;
    }
    if (live == 0) return;
    // A warp goes on when all of its unfinished threads wait for it; the block when all wait at the barrier.
    for (unsigned begin = 0; begin < num_threads; begin += 32) {
      const unsigned end = begin + 32 < num_threads ? begin + 32 : num_threads;
      bool all = true;
      for (unsigned t = begin; t < end; ++t)
        all = all && (threads[t]->state == Thread::kAtWarp || threads[t]->state == Thread::kDone);
      for (unsigned t = begin; all && t < end; ++t) {
        if (threads[t]->state != Thread::kAtWarp) continue;
        threads[t]->state = Thread::kReady;
        ++freed;
      }
    }
    if (at_block == live) {
      for (unsigned t = 0; t < num_threads; ++t)
        if (threads[t]->state == Thread::kAtBlock) threads[t]->state = Thread::kReady;
      ++freed;
    }
    if (freed == 0 && ran == 0)
      throw std::logic_error(std::string(name) + ": threads of a block wait at different barriers");
  }
}

}  // namespace

void fail_kernel(const std::string& what) {
  if (running == nullptr) return;
  failure = std::make_exception_ptr(std::logic_error(std::string(running) + ": " + what));
  wait(Thread::kDone);
}

void run(const char* name, dim3 grid, int num_threads, std::int64_t shared_bytes, const std::function<void()>& kernel) {
  const auto fail = [&](const std::string& what) { throw std::logic_error(std::string(name) + ": " + what); };
  if (num_threads < 1 || num_threads > 1024) fail("expected 1 to 1024 threads, got " + std::to_string(num_threads));
  if (shared_bytes > kMostShared) fail("too much shared memory: " + std::to_string(shared_bytes));
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535)
    fail("a grid that can't be launched");
  const unsigned count = static_cast<unsigned>(num_threads);
  while (threads.size() < count) threads.push_back(std::make_unique<Thread>());
  for (auto& side : offers) side = std::vector<Offer>((count + 31) / 32 * 32);
  gridDim = grid;
  blockDim = dim3(count);
  body = &kernel;
  struct Running {
    explicit Running(const char* name) { running = name; }
    ~Running() { running = nullptr; }
  } const scope(name);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        std::memset(shared, 0xff, static_cast<std::size_t>(shared_bytes));  // NaN
        run_block(name, count);
      }
}

char* shared_memory() { return shared; }
void wait_for_previous() { self->waited = true; }
void wait_for_block() {
  wait(Thread::kAtBlock);
  threadIdx = dim3(self->id);
}
void wait_for_warp() {
  wait(Thread::kAtWarp);
  threadIdx = dim3(self->id);
}
unsigned lane() { return self->id % 32; }

const Offer* exchange(const void* offered, std::size_t num_bytes) {
  std::vector<Offer>& side = offers[self->exchanges++ % 2];
  std::memset(&side[self->id], 0, sizeof(Offer));
  std::memcpy(&side[self->id], offered, num_bytes);
  wait_for_warp();
  return &side[self->id / 32 * 32];
}

void copy_later(void* to, const void* from, int num_bytes, bool valid) {
  const auto aligned = [&](const void* at) {
    return reinterpret_cast<std::uintptr_t>(at) % static_cast<unsigned>(num_bytes) == 0;
  };
  if (!aligned(to) || (valid && !aligned(from))) throw std::logic_error("a background copy that is not aligned");
  std::memset(to, 0xff, static_cast<std::size_t>(num_bytes));  // whoever reads too early sees NaN
  self->groups.back().push_back({to, from, num_bytes, valid});
}
void close_copies() { self->groups.emplace_back(); }
void wait_for_copies(int num_pending) {
  auto& groups = self->groups;
  while (static_cast<int>(groups.size()) - 1 > num_pending) {
    for (const Copy& copy : groups.front()) {
      if (copy.valid)
        std::memcpy(copy.to, copy.from, static_cast<std::size_t>(copy.num_bytes));
      else
        std::memset(copy.to, 0, static_cast<std::size_t>(copy.num_bytes));
    }
    groups.erase(groups.begin());
  }
}

}  // namespace cuda_host

namespace llada::cuda {
namespace {

// Rows of the four matrices, as the lanes name them.
const std::uint16_t* matrix_row(const cuda_host::Offer* offers, int matrix, int row) {
  return reinterpret_cast<const std::uint16_t*>(offers[matrix * 8 + row][0]);
}

// What a lane brings to a product.
struct Fragments {
  std::uint32_t a[4];
  std::uint32_t b[2];
};

// c += a b with kPerRegister values in each 32 bits, widened by `widen`.
template <int kPerRegister, class Sum, class Widen>
void multiply(Sum (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], const Widen& widen) {
  Fragments own;
  std::memcpy(own.a, a, sizeof own.a);
  std::memcpy(own.b, b, sizeof own.b);
  const auto* offers = cuda_host::exchange(&own, sizeof own);
  const unsigned g = cuda_host::lane() / 4, t = cuda_host::lane() % 4;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = g + 8 * (i / 2), column = 2 * t + i % 2;
    Sum sum = c[i];
    for (unsigned k = 0; k < 8; ++k) {  // registers along k
      Fragments of_row, of_column;
      std::memcpy(&of_row, offers[row % 8 * 4 + k % 4], sizeof of_row);
      std::memcpy(&of_column, offers[column * 4 + k % 4], sizeof of_column);
      for (int e = 0; e < kPerRegister; ++e)
        sum += widen(of_row.a[k / 4 * 2 + row / 8], e) * widen(of_column.b[k / 4], e);
    }
    c[i] = sum;
  }
}

}  // namespace

void load_matrices(std::uint32_t (&out)[4], const void* shared_row) {
  if (reinterpret_cast<std::uintptr_t>(shared_row) % 16 != 0)
    throw std::logic_error("a matrix row that is not aligned");
  const auto* offers = cuda_host::exchange(&shared_row, sizeof shared_row);
  const int g = static_cast<int>(cuda_host::lane() / 4), t = static_cast<int>(cuda_host::lane() % 4);
  for (int i = 0; i < 4; ++i) std::memcpy(&out[i], matrix_row(offers, i, g) + 2 * t, 4);
  cuda_host::wait_for_warp();  // nobody overwrites the rows before all have read
}

void load_matrices_transposed(std::uint32_t (&out)[4], const void* shared_row) {
  if (reinterpret_cast<std::uintptr_t>(shared_row) % 16 != 0)
    throw std::logic_error("a matrix row that is not aligned");
  const auto* offers = cuda_host::exchange(&shared_row, sizeof shared_row);
  const int g = static_cast<int>(cuda_host::lane() / 4), t = static_cast<int>(cuda_host::lane() % 4);
  for (int i = 0; i < 4; ++i)
    out[i] = matrix_row(offers, i, 2 * t)[g] | static_cast<std::uint32_t>(matrix_row(offers, i, 2 * t + 1)[g]) << 16;
  cuda_host::wait_for_warp();
}

void multiply_bf16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  multiply<2>(c, a, b,
              [](std::uint32_t word, int e) { return bf16_to_float(static_cast<std::uint16_t>(word >> (16 * e))); });
}

void multiply_int8(std::int32_t (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  multiply<4>(c, a, b,
              [](std::uint32_t word, int e) { return std::int32_t{static_cast<std::int8_t>(word >> (8 * e))}; });
}

void multiply_float8(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  multiply<4>(c, a, b,
              [](std::uint32_t word, int e) { return float8_to_float(static_cast<std::uint8_t>(word >> (8 * e))); });
}

}  // namespace llada::cuda
