#include <map>
#include <mutex>
#include <utility>

#include "core/check.h"
#include "cuda/device/api.h"

namespace llada::cuda {
namespace {

// The oldest device that the machine code in this file was made for.
#if defined(LLADA_CUDA_OLDEST)
constexpr int kOldestCapability = LLADA_CUDA_OLDEST;
#else
constexpr int kOldestCapability = 80;
#endif

void expect(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // so that the next call does not report it again
  fail(error == cudaErrorMemoryAllocation ? ErrorKind::kOutOfMemory : ErrorKind::kDevice, what, ": ",
       cudaGetErrorString(error));
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

int num_devices(std::string& why) {
  int count = 0, driver = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  cudaDriverGetVersion(&driver);
  if (error == cudaSuccess && count > 0) return count;
  cudaGetLastError();
  // Without any driver the runtime says that its version is insufficient, which misleads.
  if (driver == 0)
    why = "no NVIDIA driver on this machine";
  else if (error == cudaErrorInsufficientDriver)
    why =
        "expected a driver for CUDA " + version_text(CUDART_VERSION) + " or later, got one for " + version_text(driver);
  else
    why = error == cudaSuccess ? "no NVIDIA device on this machine" : cudaGetErrorString(error);
  return 0;
}

DeviceFacts device_facts(int index) {
  std::string why;
  const int count = num_devices(why);
  check(count > 0, ErrorKind::kDevice, "device \"cuda\": ", why);
  check(index >= 0 && index < count, ErrorKind::kDevice, "expected a device index from 0 to ", count - 1, ", got ",
        index);
  cudaDeviceProp properties;
  expect(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  DeviceFacts facts;
  facts.name = properties.name;
  facts.index = index;
  facts.capability = 10 * properties.major + properties.minor;
  facts.num_processors = properties.multiProcessorCount;
  facts.memory_bytes = static_cast<std::int64_t>(properties.totalGlobalMem);
  facts.shared_bytes = static_cast<std::int64_t>(properties.sharedMemPerBlockOptin);
  facts.l2_bytes = properties.l2CacheSize;
  expect(cudaDriverGetVersion(&facts.driver), "cudaDriverGetVersion");
  expect(cudaRuntimeGetVersion(&facts.runtime), "cudaRuntimeGetVersion");
  check(facts.capability >= kOldestCapability, ErrorKind::kDevice, "expected a GPU of compute capability ",
        kOldestCapability / 10, ".", kOldestCapability % 10, " or later, got ", facts.name, " with ", properties.major,
        ".", properties.minor);
  return facts;
}

void set_device(int index) { expect(cudaSetDevice(index), "cudaSetDevice"); }

int current_device() {
  int index = 0;
  expect(cudaGetDevice(&index), "cudaGetDevice");
  return index;
}

cudaStream_t create_stream() {
  cudaStream_t stream = nullptr;
  expect(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  return stream;
}

void destroy_stream(cudaStream_t stream) { cudaStreamDestroy(stream); }
void wait_for(cudaStream_t stream) { expect(cudaStreamSynchronize(stream), "cudaStreamSynchronize"); }

void* allocate(std::int64_t num_bytes) {
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, static_cast<std::size_t>(num_bytes > 0 ? num_bytes : 1));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  expect(error, "cudaMalloc");
  return memory;
}

void* allocate_pinned(std::int64_t num_bytes) {
  void* memory = nullptr;
  const cudaError_t error = cudaMallocHost(&memory, static_cast<std::size_t>(num_bytes));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  expect(error, "cudaMallocHost");
  return memory;
}

void release(void* memory) { cudaFree(memory); }
void release_pinned(void* memory) { cudaFreeHost(memory); }

void free_and_total(std::int64_t& free_bytes, std::int64_t& total_bytes) {
  std::size_t free_size = 0, total_size = 0;
  expect(cudaMemGetInfo(&free_size, &total_size), "cudaMemGetInfo");
  free_bytes = static_cast<std::int64_t>(free_size);
  total_bytes = static_cast<std::int64_t>(total_size);
}

void copy_to_device(void* to, const void* from, std::int64_t num_bytes, cudaStream_t stream) {
  expect(cudaMemcpyAsync(to, from, static_cast<std::size_t>(num_bytes), cudaMemcpyHostToDevice, stream),
         "a copy to the device");
}

void copy_to_host(void* to, const void* from, std::int64_t num_bytes, cudaStream_t stream) {
  expect(cudaMemcpyAsync(to, from, static_cast<std::size_t>(num_bytes), cudaMemcpyDeviceToHost, stream),
         "a copy from the device");
}

void copy_on_device(void* to, const void* from, std::int64_t num_bytes, cudaStream_t stream) {
  expect(cudaMemcpyAsync(to, from, static_cast<std::size_t>(num_bytes), cudaMemcpyDeviceToDevice, stream),
         "a copy on the device");
}

void clear(void* at, std::int64_t num_bytes, cudaStream_t stream) {
  expect(cudaMemsetAsync(at, 0, static_cast<std::size_t>(num_bytes), stream), "cudaMemset");
}

void begin_capture(cudaStream_t stream) {
  expect(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
}

Graph end_capture(cudaStream_t stream) {
  cudaGraph_t graph = nullptr;
  expect(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  expect(error, "cudaGraphInstantiate");
  return executable;
}

void launch_graph(Graph graph, cudaStream_t stream) {
  expect(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), stream), "cudaGraphLaunch");
}

void destroy_graph(Graph graph) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)); }

void check_launch(const char* kernel, cudaError_t error) { expect(error, kernel); }

bool& EarlyLaunch::is_on() {
  static thread_local bool on = false;
  return on;
}

void allow_shared(const void* kernel, std::int64_t shared_bytes) {
  static std::mutex mutex;
  static std::map<std::pair<int, const void*>, std::int64_t> allowed;
  const std::lock_guard<std::mutex> lock(mutex);
  std::int64_t& most = allowed[{current_device(), kernel}];
  if (most >= shared_bytes) return;
  expect(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
         "cudaFuncSetAttribute");
  most = shared_bytes;
}

}  // namespace llada::cuda
