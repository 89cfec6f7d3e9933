// What the ops of one engine share on a device. An op puts its kernels on a list; `finish` sends what they read from
// the caller, runs the list, brings back what they wrote for the caller, and waits once. A list that comes for the
// second time, byte for byte, becomes a graph: the steps of a block are one launch each. Nothing is allocated once the
// shapes have been seen.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/device/api.h"
#include "cuda/device/options.h"
#include "ops/ops.h"

namespace llada::cuda {

constexpr std::int64_t kStagingBytes = std::int64_t{1} << 20;  // of a chunk, at least

// Memory handed out piece by piece and taken back all at once; it grows by further chunks, so that no address moves.
// With a host side each chunk exists twice.
class Staging {
 public:
  explicit Staging(bool on_host) : on_host_(on_host) {}
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  struct Piece {
    char* device = nullptr;
    char* host = nullptr;
  };
  // Aligned to 256 bytes. Throws OutOfMemoryError.
  Piece take(std::int64_t num_bytes);
  void reset();
  void send(cudaStream_t stream) const;   // the used part of each chunk, to the device
  void fetch(cudaStream_t stream) const;  // and from it

 private:
  struct Chunk {
    Piece base;
    std::int64_t num_bytes;
    std::int64_t used;
  };
  const bool on_host_;
  std::vector<Chunk> chunks_;
};

class Session {
 public:
  // stream: of the caller, who keeps it open; nullptr: one of our own. Throws DeviceError, and ConfigError for an
  // environment that asks for what is not there.
  explicit Session(int index, cudaStream_t stream = nullptr);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const DeviceFacts& facts() const { return facts_; }
  const SessionOptions& options() const { return options_; }
  cudaStream_t stream() const { return stream_; }

  // Where `count` values of the caller will be on the device when the list runs; they are read now.
  template <class T>
  const T* input(const T* host, std::int64_t count) {
    return static_cast<const T*>(stage(host, count * static_cast<std::int64_t>(sizeof(T))));
  }

  // Where kernels write what is to be at `host` after finish. `fill`: what is at `host` now is there beforehand. The
  // same host array asked for again before finish gives the same memory.
  template <class T>
  T* output(T* host, std::int64_t count, bool fill = false) {
    return static_cast<T*>(result(host, count * static_cast<std::int64_t>(sizeof(T)), fill));
  }

  // Device memory for the kernels of one op; the next op that asks gets the same.
  void* scratch(std::int64_t num_bytes);
  // The same of zeros, which kernels must leave as zeros.
  void* zeros(std::int64_t num_bytes);

  // Puts run(args, stream) on the list. Args is plain data that says all that the kernels need: equal bytes mean equal
  // work, so begin with `Args args{}`, which leaves no byte open.
  template <class Args>
  void push(void (*run)(const Args&, cudaStream_t), const Args& args) {
    static_assert(std::is_trivially_copyable_v<Args>);
    append(reinterpret_cast<void (*)()>(run), &Command<Args>::call, &args, sizeof(Args));
  }

  void finish();
  void discard();

  void* allocate(std::int64_t num_bytes);
  void release(void* memory);
  void upload(const void* host, std::int64_t num_bytes, void* memory);
  void download(const void* memory, std::int64_t num_bytes, void* host);
  void clear(void* memory, std::int64_t num_bytes);
  void copy(const void* from, std::int64_t num_bytes, void* to);
  std::int64_t free_bytes() const;

  // Each op by itself and waited for: what somebody who times ops wants.
  void set_step_by_step(bool on) { step_by_step_ = on; }
  DeviceCounts counts() const { return counts_; }

 private:
  using Call = void (*)(void (*run)(), const char* args, cudaStream_t);
  template <class Args>
  struct Command {
    static void call(void (*run)(), const char* bytes, cudaStream_t stream) {
      Args args;
      std::memcpy(&args, bytes, sizeof args);
      reinterpret_cast<void (*)(const Args&, cudaStream_t)>(run)(args, stream);
    }
  };
  struct Header {
    void (*run)();
    Call call;
    std::int64_t num_bytes;
  };
  struct Result {
    void* host;
    Staging::Piece piece;
    std::int64_t num_bytes;
  };
  struct Seen {
    Graph graph = nullptr;
    std::int64_t last_used = 0;
  };

  void append(void (*run)(), Call call, const void* args, std::size_t num_bytes);
  const void* stage(const void* host, std::int64_t num_bytes);
  void* result(void* host, std::int64_t num_bytes, bool fill);
  void run_list(cudaStream_t stream) const;
  void run_or_replay();
  void forget_oldest_graph();
  void wait_whatever_happens();
  void reset();

  const DeviceFacts facts_;
  const SessionOptions options_;
  cudaStream_t stream_ = nullptr;
  bool owns_stream_ = false;
  Staging inputs_{true};
  Staging outputs_{true};
  std::vector<Result> results_;
  std::string list_;  // headers and arguments, one command after the other
  void* scratch_ = nullptr;
  std::int64_t scratch_bytes_ = 0;
  void* zeros_ = nullptr;
  std::int64_t zeros_bytes_ = 0;
  std::vector<void*> released_;  // while the list may still use them; has room for all blocks that there are
  std::size_t num_blocks_ = 0;
  std::map<std::string, Seen> graphs_;
  DeviceCounts counts_;
  bool step_by_step_ = false;
};

// The session of an op's stream; its device becomes that of the calling thread.
Session& session_of(const Stream& stream);

}  // namespace llada::cuda
