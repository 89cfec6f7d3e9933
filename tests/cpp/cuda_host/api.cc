// The imitation's runtime: device memory is malloc's, filled with NaN; a graph is a list of what was to run.
#include "cuda/device/api.h"

#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/check.h"

namespace cuda_host {

struct Stream {
  std::vector<std::function<void()>>* captured = nullptr;
};

void enqueue(Stream* stream, std::function<void()> work) {
  if (stream != nullptr && stream->captured != nullptr)  // nullptr: the default stream
    stream->captured->push_back(std::move(work));
  else
    work();
}

}  // namespace cuda_host

namespace llada::cuda {
namespace {

using Captured = std::vector<std::function<void()>>;

std::int64_t memory_bytes = std::int64_t{4} << 30;
std::map<void*, std::int64_t> pieces;  // of device memory
std::int64_t taken_bytes = 0, num_allocations = 0, num_captures = 0, num_graph_launches = 0;

}  // namespace

// For tests: what the device has, and what was done with it since the process began.
extern "C" __attribute__((visibility("default"))) void llada_cuda_set_memory(std::int64_t num_bytes) {
  memory_bytes = num_bytes;
}
extern "C" __attribute__((visibility("default"))) std::int64_t llada_cuda_count(const char* what) {
  const std::string name = what;
  if (name == "allocations") return num_allocations;
  if (name == "taken_bytes") return taken_bytes;
  return name == "captures" ? num_captures : num_graph_launches;
}

int num_devices(std::string&) { return 1; }

DeviceFacts device_facts(int index) {
  check(index == 0, ErrorKind::kDevice, "expected a device index from 0 to 0, got ", index);
  DeviceFacts facts;
  facts.name = "processor, imitating";
  facts.capability = 90;
  facts.num_processors = 4;
  facts.memory_bytes = memory_bytes;
  facts.shared_bytes = 227 << 10;
  return facts;
}

void set_device(int) {}
int current_device() { return 0; }
cudaStream_t create_stream() { return new cuda_host::Stream; }
void destroy_stream(cudaStream_t stream) { delete stream; }
void wait_for(cudaStream_t) {}

void* allocate(std::int64_t num_bytes) {
  if (taken_bytes + num_bytes > memory_bytes) return nullptr;
  void* memory = allocate_pinned(num_bytes);
  pieces[memory] = num_bytes;
  taken_bytes += num_bytes;
  ++num_allocations;
  return memory;
}
void* allocate_pinned(std::int64_t num_bytes) {
  const std::size_t size = (static_cast<std::size_t>(num_bytes) + 256) / 256 * 256;
  void* memory = std::aligned_alloc(256, size);
  std::memset(memory, 0xff, size);
  return memory;
}
void release(void* memory) {
  if (memory == nullptr) return;
  const auto piece = pieces.find(memory);
  if (piece == pieces.end()) throw std::logic_error("released twice, or not the device's");
  taken_bytes -= piece->second;
  pieces.erase(piece);
  std::free(memory);
}
void release_pinned(void* memory) { std::free(memory); }
void free_and_total(std::int64_t& free_bytes, std::int64_t& total_bytes) {
  total_bytes = memory_bytes;
  free_bytes = memory_bytes - taken_bytes;
}

void copy_to_device(void* to, const void* from, std::int64_t num_bytes, cudaStream_t) {
  std::memcpy(to, from, static_cast<std::size_t>(num_bytes));
}
void copy_to_host(void* to, const void* from, std::int64_t num_bytes, cudaStream_t) {
  std::memcpy(to, from, static_cast<std::size_t>(num_bytes));
}
void copy_on_device(void* to, const void* from, std::int64_t num_bytes, cudaStream_t) {
  std::memcpy(to, from, static_cast<std::size_t>(num_bytes));
}
void clear(void* at, std::int64_t num_bytes, cudaStream_t) { std::memset(at, 0, static_cast<std::size_t>(num_bytes)); }

void begin_capture(cudaStream_t stream) {
  stream->captured = new Captured;
  ++num_captures;
}
Graph end_capture(cudaStream_t stream) { return std::exchange(stream->captured, nullptr); }
void launch_graph(Graph graph, cudaStream_t) {
  ++num_graph_launches;
  for (const auto& work : *static_cast<Captured*>(graph)) work();
}
void destroy_graph(Graph graph) { delete static_cast<Captured*>(graph); }

bool& EarlyLaunch::is_on() {
  static thread_local bool on = false;
  return on;
}

}  // namespace llada::cuda
