#include "ops/memory.h"

#include <cstring>

namespace llada {
namespace {

class DeviceArena : public ArenaMemory {
 public:
  explicit DeviceArena(const Memory& memory) : memory_(memory) {}

  char* map(std::int64_t num_bytes) override {
    return static_cast<char*>(memory_.device()->allocate(memory_.session(), num_bytes));
  }
  void unmap(char* base, std::int64_t) override { memory_.device()->release(memory_.session(), base); }
  void lend(char* piece, std::int64_t num_bytes) override {
    memory_.device()->clear(memory_.session(), piece, num_bytes);
  }
  void take_back(char*, std::int64_t) noexcept override {}

 private:
  const Memory& memory_;
};

}  // namespace

void Memory::upload(const void* host, std::int64_t num_bytes, void* to) const {
  if (device_ != nullptr)
    device_->upload(session_, host, num_bytes, to);
  else
    std::memcpy(to, host, static_cast<std::size_t>(num_bytes));
}

void Memory::download(const void* from, std::int64_t num_bytes, void* host) const {
  if (device_ != nullptr)
    device_->download(session_, from, num_bytes, host);
  else
    std::memcpy(host, from, static_cast<std::size_t>(num_bytes));
}

void Memory::copy(const void* from, std::int64_t num_bytes, void* to) const {
  if (device_ != nullptr)
    device_->copy(session_, from, num_bytes, to);
  else
    std::memcpy(to, from, static_cast<std::size_t>(num_bytes));
}

void Memory::discard() const {
  if (device_ != nullptr) device_->discard(session_);
}

Block::Block(const Memory& memory, std::int64_t num_bytes) : num_bytes_(num_bytes) {
  if (memory.is_host()) {
    host_ = Buffer(num_bytes);
    data_ = host_.data();
  } else {
    memory_ = &memory;
    data_ = static_cast<char*>(memory.device()->allocate(memory.session(), num_bytes));
  }
}

void Block::reserve(const Memory& memory, std::int64_t num_bytes) {
  if (num_bytes <= num_bytes_) return;
  release();  // free first: the old content is not kept
  *this = Block(memory, num_bytes);
}

void Block::release() {
  if (memory_ != nullptr) memory_->device()->release(memory_->session(), data_);
  host_ = Buffer();
  memory_ = nullptr;
  data_ = nullptr;
  num_bytes_ = 0;
}

std::unique_ptr<ArenaMemory> arena_memory(const Memory& memory) {
  if (memory.is_host()) return nullptr;
  return std::make_unique<DeviceArena>(memory);
}

}  // namespace llada
