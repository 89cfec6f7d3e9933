#include "model/kv_pool.h"

#include <algorithm>
#include <utility>

#include "core/check.h"
#include "core/pages.h"

namespace llada {
namespace {

std::int64_t round_up(std::int64_t n, std::int64_t unit) { return (n + unit - 1) / unit * unit; }

void check_tokens(const std::vector<std::int32_t>& canvas, std::int64_t vocab_size) {
  for (std::size_t i = 0; i < canvas.size(); ++i)
    check(canvas[i] >= 0 && canvas[i] < vocab_size, ErrorKind::kInvalidRequest, "expected token ids from 0 to ",
          vocab_size - 1, ", got ", canvas[i], " at position ", i);
}

// The position of the token at the end of a canvas, as it was told; -1: its index.
std::int32_t checked_last_position(std::size_t length, std::int32_t told, std::int64_t max_length) {
  const std::int32_t index = static_cast<std::int32_t>(length) - 1;
  check(told == -1 || (index <= told && told < max_length), ErrorKind::kInvalidRequest, "last_position: expected ",
        index, " to ", max_length - 1, ", got ", told);
  return told == -1 ? index : told;
}

}  // namespace

std::int64_t kv_positions(std::int64_t length) { return round_up(length, 64); }

std::int64_t kv_bytes_per_token(const ModelConfig& config, DType dtype) {
  std::int64_t per_head = 0;
  for (const LayerConfig& layer : config.layers) per_head += layer.head_dim + round_up(layer.head_dim, 16);
  return config.num_kv_heads * per_head * size_of(dtype);
}

std::int64_t kv_slot_bytes(const ModelConfig& config, DType dtype, std::int64_t length) {
  return whole_pages(kv_bytes_per_token(config, dtype) * kv_positions(length));
}

void KvPool::reserve(std::int64_t num_bytes) {
  check(slots_.empty(), ErrorKind::kInternal, "expected no open slot, got ", slots_.size());
  arena_.reset();  // first: the two need not fit side by side
  arena_ = std::make_unique<Arena>(num_bytes, arena_memory(memory_));
}

std::int32_t KvPool::open(std::vector<std::int32_t> canvas, std::int32_t last_position) {
  const std::int64_t length = static_cast<std::int64_t>(canvas.size());
  check(length >= 1, ErrorKind::kInvalidRequest, "expected at least one token, got none");
  check(length <= config_.max_sequence_length, ErrorKind::kContextLength, "expected at most ",
        config_.max_sequence_length, " tokens (max_sequence_length), got ", length);
  check_tokens(canvas, config_.vocab_size);
  if (!arena_) reserve(kDefaultArenaBytes);
  const std::int64_t capacity = kv_positions(length);
  Slot slot;
  slot.last_position = checked_last_position(canvas.size(), last_position, config_.max_sequence_length);
  slot.canvas = std::move(canvas);
  slot.layers.reserve(config_.layers.size());
  const std::int32_t id = next_id_++;
  Slot& kept = slots_.emplace(id, std::move(slot)).first->second;
  try {
    kept.memory = arena_->take(slot_bytes(length));
  } catch (...) {
    slots_.erase(id);
    throw;
  }
  char* k = kept.memory;
  for (const LayerConfig& layer : config_.layers) {
    const std::int64_t element_bytes = config_.num_kv_heads * capacity * size_of(dtype_);  // of one head dimension
    char* const v = k + element_bytes * layer.head_dim;
    kept.layers.push_back({k, v, capacity});
    k = v + element_bytes * round_up(layer.head_dim, 16);
  }
  return id;
}

void KvPool::write(std::int32_t id, std::vector<std::int32_t> canvas, std::int32_t last_position) {
  Slot& slot = at(id);
  const std::int64_t least = static_cast<std::int64_t>(slot.canvas.size());
  const std::int64_t most = std::min(kv_positions(least), config_.max_sequence_length);
  const std::int64_t length = static_cast<std::int64_t>(canvas.size());
  check(least <= length && length <= most, ErrorKind::kInvalidRequest, "expected ", least, " to ", most,
        " tokens, which the slot has room for, got ", length);
  check_tokens(canvas, config_.vocab_size);
  slot.last_position = checked_last_position(canvas.size(), last_position, config_.max_sequence_length);
  slot.canvas = std::move(canvas);
}

void KvPool::close(std::int32_t id) {
  Slot& slot = at(id);
  arena_->give_back(slot.memory, slot_bytes(static_cast<std::int64_t>(slot.canvas.size())));
  slots_.erase(id);
}

Slot& KvPool::at(std::int32_t id) {
  const auto found = slots_.find(id);
  check(found != slots_.end(), ErrorKind::kInvalidRequest, "expected an open slot, got ", id);
  return found->second;
}

}  // namespace llada
