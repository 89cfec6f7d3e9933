#include <algorithm>

#include "core/check.h"
#include "cuda/device/session.h"

namespace llada::cuda {
namespace {

constexpr std::int64_t kAlignment = 256;
constexpr std::int64_t kZerosBytes = std::int64_t{1} << 16;
constexpr std::size_t kMostGraphs = 128;

std::int64_t aligned(std::int64_t num_bytes) { return (num_bytes + kAlignment - 1) / kAlignment * kAlignment; }

void* allocate_or_throw(std::int64_t num_bytes) {
  void* memory = allocate(num_bytes);
  if (memory == nullptr) {
    std::int64_t free_bytes = 0, total_bytes = 0;
    free_and_total(free_bytes, total_bytes);
    fail(ErrorKind::kOutOfMemory, "expected ", num_bytes, " bytes of device memory, got ", free_bytes, " free of ",
         total_bytes);
  }
  return memory;
}

}  // namespace

Staging::~Staging() {
  for (const Chunk& chunk : chunks_) {
    release(chunk.base.device);
    if (on_host_) release_pinned(chunk.base.host);
  }
}

Staging::Piece Staging::take(std::int64_t num_bytes) {
  const std::int64_t size = aligned(num_bytes);
  auto chunk =
      std::find_if(chunks_.begin(), chunks_.end(), [&](const Chunk& c) { return c.used + size <= c.num_bytes; });
  if (chunk == chunks_.end()) {
    Chunk added{{}, std::max(size, kStagingBytes), 0};
    added.base.device = static_cast<char*>(allocate_or_throw(added.num_bytes));
    if (on_host_) {
      added.base.host = static_cast<char*>(allocate_pinned(added.num_bytes));
      if (added.base.host == nullptr) {
        release(added.base.device);
        fail(ErrorKind::kOutOfMemory, "could not allocate ", added.num_bytes, " bytes of pinned host memory");
      }
    }
    chunks_.push_back(added);
    chunk = chunks_.end() - 1;
  }
  const Piece piece{chunk->base.device + chunk->used, on_host_ ? chunk->base.host + chunk->used : nullptr};
  chunk->used += size;
  return piece;
}

void Staging::reset() {
  for (Chunk& chunk : chunks_) chunk.used = 0;
}

void Staging::send(cudaStream_t stream) const {
  for (const Chunk& chunk : chunks_)
    if (chunk.used > 0) copy_to_device(chunk.base.device, chunk.base.host, chunk.used, stream);
}

void Staging::fetch(cudaStream_t stream) const {
  for (const Chunk& chunk : chunks_)
    if (chunk.used > 0) copy_to_host(chunk.base.host, chunk.base.device, chunk.used, stream);
}

Session::Session(int index, cudaStream_t stream)
    : facts_(device_facts(index)), options_(session_options(facts_)), stream_(stream), owns_stream_(stream == nullptr) {
  set_device(index);
  if (owns_stream_) stream_ = create_stream();
}

Session::~Session() {
  wait_whatever_happens();
  for (const auto& [list, seen] : graphs_)
    if (seen.graph != nullptr) destroy_graph(seen.graph);
  for (void* memory : released_) cuda::release(memory);
  cuda::release(scratch_);
  cuda::release(zeros_);
  if (owns_stream_) destroy_stream(stream_);
}

const void* Session::stage(const void* host, std::int64_t num_bytes) {
  const Staging::Piece piece = inputs_.take(num_bytes);
  std::memcpy(piece.host, host, static_cast<std::size_t>(num_bytes));
  return piece.device;
}

void* Session::result(void* host, std::int64_t num_bytes, bool fill) {
  for (const Result& known : results_)
    if (known.host == host) return known.piece.device;
  const Staging::Piece piece = outputs_.take(num_bytes);
  results_.push_back({host, piece, num_bytes});
  if (fill) upload(host, num_bytes, piece.device);
  return piece.device;
}

void* Session::scratch(std::int64_t num_bytes) {
  if (num_bytes > scratch_bytes_) {
    if (scratch_ != nullptr) release(scratch_);
    scratch_ = nullptr;
    scratch_bytes_ = 0;
    scratch_ = allocate(num_bytes);
    scratch_bytes_ = num_bytes;
  }
  return scratch_;
}

void* Session::zeros(std::int64_t num_bytes) {
  if (num_bytes > zeros_bytes_) {
    if (zeros_ != nullptr) release(zeros_);
    zeros_ = nullptr;
    zeros_bytes_ = 0;
    const std::int64_t size = std::max(num_bytes, kZerosBytes);
    zeros_ = allocate(size);
    clear(zeros_, size);
    zeros_bytes_ = size;
  }
  return zeros_;
}

void Session::append(void (*run)(), Call call, const void* args, std::size_t num_bytes) {
  Header header{run, call, static_cast<std::int64_t>(num_bytes)};
  if (step_by_step_) {
    inputs_.send(stream_);
    call(run, static_cast<const char*>(args), stream_);
    wait_for(stream_);
    return;
  }
  list_.append(reinterpret_cast<const char*>(&header), sizeof header);
  list_.append(static_cast<const char*>(args), num_bytes);
}

void Session::run_list(cudaStream_t stream) const {
  const EarlyLaunch early(options_.early_launch);
  for (std::size_t at = 0; at < list_.size();) {
    Header header;
    std::memcpy(&header, list_.data() + at, sizeof header);
    at += sizeof header;
    header.call(header.run, list_.data() + at, stream);
    at += static_cast<std::size_t>(header.num_bytes);
  }
}

// A shape that comes once is not worth a graph; one that comes twice will come again.
void Session::run_or_replay() {
  const auto found = graphs_.find(list_);
  if (found == graphs_.end()) {
    if (graphs_.size() >= kMostGraphs) forget_oldest_graph();
    graphs_[list_].last_used = counts_.finishes;
    run_list(stream_);
    return;
  }
  Seen& seen = found->second;
  seen.last_used = counts_.finishes;
  if (seen.graph == nullptr) {
    begin_capture(stream_);
    try {
      run_list(stream_);
    } catch (...) {
      destroy_graph(end_capture(stream_));
      throw;
    }
    seen.graph = end_capture(stream_);
    ++counts_.captures;
  }
  launch_graph(seen.graph, stream_);
  ++counts_.replays;
}

void Session::forget_oldest_graph() {
  const auto oldest = std::min_element(graphs_.begin(), graphs_.end(), [](const auto& a, const auto& b) {
    return a.second.last_used < b.second.last_used;
  });
  if (oldest->second.graph != nullptr) destroy_graph(oldest->second.graph);
  graphs_.erase(oldest);
}

void Session::finish() {
  set_device(facts_.index);
  ++counts_.finishes;
  try {
    inputs_.send(stream_);
    if (!list_.empty()) run_or_replay();
    outputs_.fetch(stream_);
    wait_for(stream_);
  } catch (...) {
    wait_whatever_happens();  // copies may still read or write what reset gives away
    reset();
    throw;
  }
  for (const Result& r : results_) std::memcpy(r.host, r.piece.host, static_cast<std::size_t>(r.num_bytes));
  reset();
}

void Session::discard() {
  wait_whatever_happens();
  reset();
}

// What has failed on a device has nothing left to wait for.
void Session::wait_whatever_happens() {
  try {
    set_device(facts_.index);
    wait_for(stream_);
  } catch (const Error&) {
  }
}

void Session::reset() {
  list_.clear();
  results_.clear();
  inputs_.reset();
  outputs_.reset();
  for (void* memory : released_) cuda::release(memory);
  released_.clear();
}

void* Session::allocate(std::int64_t num_bytes) {
  set_device(facts_.index);
  released_.reserve(num_blocks_ + 1);  // so that giving back allocates nothing
  void* memory = allocate_or_throw(num_bytes);
  ++num_blocks_;
  return memory;
}

void Session::release(void* memory) {
  set_device(facts_.index);
  --num_blocks_;
  if (list_.empty())
    cuda::release(memory);
  else
    released_.push_back(memory);
}

void Session::upload(const void* host, std::int64_t num_bytes, void* memory) {
  set_device(facts_.index);
  copy_to_device(memory, host, num_bytes, stream_);
  wait_for(stream_);
}

void Session::download(const void* memory, std::int64_t num_bytes, void* host) {
  finish();
  copy_to_host(host, memory, num_bytes, stream_);
  wait_for(stream_);
}

void Session::clear(void* memory, std::int64_t num_bytes) {
  set_device(facts_.index);
  cuda::clear(memory, num_bytes, stream_);
  wait_for(stream_);
}

void Session::copy(const void* from, std::int64_t num_bytes, void* to) {
  finish();
  copy_on_device(to, from, num_bytes, stream_);
  wait_for(stream_);
}

std::int64_t Session::free_bytes() const {
  set_device(facts_.index);
  std::int64_t free_bytes = 0, total_bytes = 0;
  free_and_total(free_bytes, total_bytes);
  return free_bytes;
}

Session& session_of(const Stream& stream) {
  check(stream.session != nullptr, ErrorKind::kInternal, "expected a session of the CUDA device, got none");
  Session& session = *static_cast<Session*>(stream.session);
  set_device(session.facts().index);  // whichever thread calls
  session.set_step_by_step(stream.trace != nullptr);
  return session;
}

}  // namespace llada::cuda
