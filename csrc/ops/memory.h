// Memory where a table computes: the processor's, or that of its device, with the session that the ops share there.
#pragma once

#include <cstdint>
#include <utility>

#include "core/arena.h"
#include "core/tensor.h"
#include "ops/ops.h"

namespace llada {

class Memory {
 public:
  // index, stream: of the device, where the table has one. Throws DeviceError.
  explicit Memory(const Ops& table, int index = 0, void* stream = nullptr)
      : device_(table.device), session_(device_ != nullptr ? device_->open(index, stream) : nullptr) {}
  ~Memory() {
    if (device_ != nullptr) device_->close(session_);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  bool is_host() const { return device_ == nullptr; }
  const Device* device() const { return device_; }
  void* session() const { return session_; }

  // Copies between here and the process, and within; they have happened when they return.
  void upload(const void* host, std::int64_t num_bytes, void* to) const;
  void download(const void* from, std::int64_t num_bytes, void* host) const;
  void copy(const void* from, std::int64_t num_bytes, void* to) const;  // within it
  // Drops work that waits for `finish`.
  void discard() const;
  // Memory of the device that nobody has taken; -1 for the processor's.
  std::int64_t free_bytes() const { return device_ != nullptr ? device_->free_bytes(session_) : -1; }
  // What the session has done; zeros for the processor.
  DeviceCounts counts() const { return device_ != nullptr ? device_->counts(session_) : DeviceCounts{}; }

 private:
  const Device* const device_;
  void* const session_;
};

// The owner of a piece of it.
class Block {
 public:
  Block() = default;
  // Throws OutOfMemoryError.
  Block(const Memory& memory, std::int64_t num_bytes);
  ~Block() { release(); }
  Block(Block&& other) noexcept { swap(other); }
  Block& operator=(Block&& other) noexcept {
    swap(other);
    return *this;
  }

  char* data() const { return data_; }
  std::int64_t num_bytes() const { return num_bytes_; }

  // Grows to at least num_bytes; the content is not kept.
  void reserve(const Memory& memory, std::int64_t num_bytes);

 private:
  void release();
  void swap(Block& other) noexcept {
    std::swap(host_, other.host_);
    std::swap(memory_, other.memory_);
    std::swap(data_, other.data_);
    std::swap(num_bytes_, other.num_bytes_);
  }

  Buffer host_;                     // what data_ is, if it is the processor's
  const Memory* memory_ = nullptr;  // whose piece it is, if it is a device's
  char* data_ = nullptr;
  std::int64_t num_bytes_ = 0;
};

// An arena in that memory: an empty pointer for the processor's, which arenas map themselves.
std::unique_ptr<ArenaMemory> arena_memory(const Memory& memory);

}  // namespace llada
