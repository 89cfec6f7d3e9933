// The calls of the CUDA runtime that the backend makes, with errors as exceptions. Kernels are launched here too, so
// that the sources need no syntax of nvcc and the host imitation (tests/cpp/cuda_host) can stand in.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/device/facts.h"
#include "cuda/device/target.cuh"

namespace llada::cuda {

void set_device(int index);  // of the calling thread
int current_device();
cudaStream_t create_stream();
void destroy_stream(cudaStream_t stream);
void wait_for(cudaStream_t stream);

void* allocate(std::int64_t num_bytes);         // nullptr if there is not enough
void* allocate_pinned(std::int64_t num_bytes);  // host memory that copies run beside the processor from; or nullptr
void release(void* memory);
void release_pinned(void* memory);
void free_and_total(std::int64_t& free_bytes, std::int64_t& total_bytes);
void copy_to_device(void* to, const void* from, std::int64_t num_bytes, cudaStream_t stream);
void copy_to_host(void* to, const void* from, std::int64_t num_bytes, cudaStream_t stream);
void copy_on_device(void* to, const void* from, std::int64_t num_bytes, cudaStream_t stream);
void clear(void* at, std::int64_t num_bytes, cudaStream_t stream);

// A recorded sequence of kernels.
using Graph = void*;
void begin_capture(cudaStream_t stream);
Graph end_capture(cudaStream_t stream);
void launch_graph(Graph graph, cudaStream_t stream);
void destroy_graph(Graph graph);

// While one lives, kernels that this thread launches may begin before the ones before them have ended (programmatic
// dependent launch, sm_90 and later): their blocks are there and wait in begin_kernel or wait_for_previous_kernels
// (device/instructions.cuh), so the time between two kernels goes.
class EarlyLaunch {
 public:
  explicit EarlyLaunch(bool on) : before_(is_on()) { is_on() = on; }
  ~EarlyLaunch() { is_on() = before_; }
  EarlyLaunch(const EarlyLaunch&) = delete;
  EarlyLaunch& operator=(const EarlyLaunch&) = delete;
  static bool& is_on();  // of the calling thread

 private:
  const bool before_;
};

#if defined(__CUDACC__)
// A kernel that may come to more than 48 KiB of shared memory, its static part included, is told so before its first
// launch on each device.
void allow_shared(const void* kernel, std::int64_t shared_bytes);
// Throws what a launch did wrong, named.
void check_launch(const char* kernel, cudaError_t error);

template <class Kernel, class... Args>
void launch(const char* name, Kernel kernel, dim3 grid, int num_threads, std::int64_t shared_bytes, cudaStream_t stream,
            const Args&... args) {
  if (shared_bytes > 16 * 1024) allow_shared(reinterpret_cast<const void*>(kernel), shared_bytes);
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(num_threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = EarlyLaunch::is_on() ? 1 : 0;
  check_launch(name, cudaLaunchKernelEx(&config, kernel, args...));
}
#else
template <class Kernel, class... Args>
void launch(const char* name, Kernel kernel, dim3 grid, int num_threads, std::int64_t shared_bytes, cudaStream_t stream,
            const Args&... args) {
  cuda_host::enqueue(stream, [=] { cuda_host::run(name, grid, num_threads, shared_bytes, [=] { kernel(args...); }); });
}
#endif

}  // namespace llada::cuda
