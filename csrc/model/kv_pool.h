// K and V of the sequences that run. A slot is allotted once, whole; its canvas may grow within that.
#pragma once

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "core/arena.h"
#include "model/batch.h"
#include "model/config.h"
#include "ops/memory.h"

namespace llada {

// Positions that a slot for `length` of them is allotted.
std::int64_t kv_positions(std::int64_t length);

// Bytes of all layers, for one position; and what a slot for `length` positions takes of the arena.
std::int64_t kv_bytes_per_token(const ModelConfig& config, DType dtype);
std::int64_t kv_slot_bytes(const ModelConfig& config, DType dtype, std::int64_t length);

struct Slot {
  std::vector<std::int32_t> canvas;
  std::int32_t last_position = 0;  // of the token at its end
  std::vector<KvView> layers;
  char* memory = nullptr;

  std::int32_t length() const { return static_cast<std::int32_t>(canvas.size()); }
  SlotView view() const { return {canvas.data(), length(), last_position, layers.data()}; }
};

class KvPool {
 public:
  static constexpr std::int64_t kDefaultArenaBytes = std::int64_t{1} << 30;  // unless `reserve` says otherwise

  KvPool(const ModelConfig& config, DType dtype, const Memory& memory)
      : config_(config), dtype_(dtype), memory_(memory) {}

  // The arena that the slots share, anew with `num_bytes`. Throws InternalError if slots are open, OutOfMemoryError.
  void reserve(std::int64_t num_bytes);

  // K/V for each position of `canvas`, zeroed: what is stale in memory may be NaN. last_position: of the token at the
  // end, further on than its index if the canvas leaves positions out there; -1: its index. Throws InvalidRequestError
  // for a token id outside the vocabulary, ContextLengthError, OutOfMemoryError.
  std::int32_t open(std::vector<std::int32_t> canvas, std::int32_t last_position = -1);
  void close(std::int32_t id);

  // Replaces the tokens of a slot, as many as it is allotted at most; K and V stay. Throws InvalidRequestError.
  void write(std::int32_t id, std::vector<std::int32_t> canvas, std::int32_t last_position = -1);

  // Throws InvalidRequestError if there is no such slot.
  Slot& at(std::int32_t id);

  std::int64_t num_open() const { return static_cast<std::int64_t>(slots_.size()); }
  std::int64_t bytes_per_token() const { return kv_bytes_per_token(config_, dtype_); }
  std::int64_t slot_bytes(std::int64_t length) const { return kv_slot_bytes(config_, dtype_, length); }
  std::int64_t used_bytes() const { return arena_ ? arena_->used_bytes() : 0; }

 private:
  const ModelConfig& config_;
  const DType dtype_;
  const Memory& memory_;
  std::unique_ptr<Arena> arena_;  // from the first slot on
  std::map<std::int32_t, Slot> slots_;
  std::int32_t next_id_ = 0;
};

// Slots that live for one call: closed when it ends, also by an exception.
class ScopedSlots {
 public:
  explicit ScopedSlots(KvPool& pool) : pool_(pool) {}
  ~ScopedSlots() {
    for (const std::int32_t id : ids_) pool_.close(id);
  }
  ScopedSlots(const ScopedSlots&) = delete;
  ScopedSlots& operator=(const ScopedSlots&) = delete;

  const Slot& open(std::vector<std::int32_t> canvas) {
    ids_.reserve(ids_.size() + 1);  // before there is a slot to forget
    ids_.push_back(pool_.open(std::move(canvas)));
    return pool_.at(ids_.back());
  }

 private:
  KvPool& pool_;
  std::vector<std::int32_t> ids_;
};

}  // namespace llada
