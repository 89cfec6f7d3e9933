// The imitation's runtime: device memory is malloc's, filled with NaN; a graph is a list of what was to run.
#include "cuda/device/api.h"

#include <cstdlib>
#include <utility>
#include <vector>

#include "core/check.h"

namespace cuda_host {

struct Stream {
  std::vector<std::function<void()>>* captured = nullptr;
};

void enqueue(Stream* stream, std::function<void()> work) {
  if (stream->captured != nullptr)
    stream->captured->push_back(std::move(work));
  else
    work();
}

}  // namespace cuda_host

namespace llada::cuda {
namespace {

using Captured = std::vector<std::function<void()>>;

constexpr std::int64_t kMemoryBytes = std::int64_t{4} << 30;  // larger pieces are refused

}  // namespace

int num_devices(std::string&) { return 1; }

DeviceFacts device_facts(int index) {
  check(index == 0, ErrorKind::kDevice, "expected a device index from 0 to 0, got ", index);
  DeviceFacts facts;
  facts.name = "processor, imitating";
  facts.capability = 90;
  facts.num_processors = 4;
  facts.memory_bytes = kMemoryBytes;
  facts.shared_bytes = 227 << 10;
  return facts;
}

void set_device(int) {}
cudaStream_t create_stream() { return new cuda_host::Stream; }
void destroy_stream(cudaStream_t stream) { delete stream; }
void wait_for(cudaStream_t) {}

void* allocate(std::int64_t num_bytes) {
  if (num_bytes > kMemoryBytes) return nullptr;
  const std::size_t size = (static_cast<std::size_t>(num_bytes) + 256) / 256 * 256;
  void* memory = std::aligned_alloc(256, size);
  std::memset(memory, 0xff, size);
  return memory;
}
void* allocate_pinned(std::int64_t num_bytes) { return allocate(num_bytes); }
void release(void* memory) { std::free(memory); }
void release_pinned(void* memory) { std::free(memory); }
void free_and_total(std::int64_t& free_bytes, std::int64_t& total_bytes) { free_bytes = total_bytes = kMemoryBytes; }

void copy_to_device(void* to, const void* from, std::int64_t num_bytes, cudaStream_t) {
  std::memcpy(to, from, static_cast<std::size_t>(num_bytes));
}
void copy_to_host(void* to, const void* from, std::int64_t num_bytes, cudaStream_t) {
  std::memcpy(to, from, static_cast<std::size_t>(num_bytes));
}
void clear(void* at, std::int64_t num_bytes, cudaStream_t) { std::memset(at, 0, static_cast<std::size_t>(num_bytes)); }

void begin_capture(cudaStream_t stream) { stream->captured = new Captured; }
Graph end_capture(cudaStream_t stream) { return std::exchange(stream->captured, nullptr); }
void launch_graph(Graph graph, cudaStream_t) {
  for (const auto& work : *static_cast<Captured*>(graph)) work();
}
void destroy_graph(Graph graph) { delete static_cast<Captured*>(graph); }
void check_launch(const char*) {}

}  // namespace llada::cuda
