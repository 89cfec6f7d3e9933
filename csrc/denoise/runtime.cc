#include "denoise/runtime.h"

#include <numeric>
#include <utility>

#include "core/check.h"
#include "ops/registry.h"

namespace llada {
Runtime::Runtime(const std::string& folder, const RuntimeOptions& options)
    : device_index_(find_table(options.table).device != nullptr ? options.device_index : -1),
      config_(load_config(folder)),
      table_(find_table(options.table)),
      ops_(table_),
      trace_(table_),
      pool_(checked_num_threads(options.num_threads)),
      memory_(table_, options.device_index, options.stream),
      stream_{&pool_, nullptr, memory_.session()},
      weights_(load_weights(folder, config_, options.compute_type, ops_, memory_, stream_)),
      kv_(config_, weights_.type.rows, memory_),
      model_(config_, weights_, ops_, memory_),
      loop_(model_, kv_, weights_, ops_) {}

std::int32_t Runtime::open_slot(std::vector<std::int32_t> canvas, std::int32_t last_position) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return kv_.open(std::move(canvas), last_position);
}

std::int32_t Runtime::copy_slot(std::int32_t slot) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Slot& from = kv_.at(slot);
  return kv_.open(from.canvas, from.last_position);
}

void Runtime::write_slot(std::int32_t slot, std::vector<std::int32_t> canvas, std::int32_t last_position) {
  const std::lock_guard<std::mutex> lock(mutex_);
  kv_.write(slot, std::move(canvas), last_position);
}

void Runtime::close_slot(std::int32_t slot) {
  const std::lock_guard<std::mutex> lock(mutex_);
  kv_.close(slot);
}

std::int64_t Runtime::num_open_slots() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return kv_.num_open();
}

std::int64_t Runtime::workspace_bytes(std::int64_t num_rows) const {
  return llada::workspace_bytes(config_, weights_.type, table_, num_threads(), num_rows);
}

void Runtime::reserve_kv(std::int64_t num_bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  kv_.reserve(num_bytes);
}

std::int64_t Runtime::kv_used_bytes() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return kv_.used_bytes();
}

std::int64_t Runtime::free_device_bytes() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return memory_.free_bytes();
}

DeviceCounts Runtime::device_counts() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return memory_.counts();
}

std::vector<std::int32_t> Runtime::canvas(std::int32_t slot) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return kv_.at(slot).canvas;
}

StepResult Runtime::denoise(const StepPlan& plan) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const TimedScope scope(stream_.trace, "denoise");
  try {
    return loop_.run(stream_, plan);
  } catch (...) {
    memory_.discard();
    throw;
  }
}

void Runtime::forward(const std::vector<std::int32_t>& tokens, float* out) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const std::int32_t length = static_cast<std::int32_t>(tokens.size());
  std::vector<std::int32_t> positions(tokens.size());
  std::iota(positions.begin(), positions.end(), 0);
  ScopedSlots slots(kv_);
  logits(slots.open(tokens), {{0, length, length}}, positions, out);
}

void Runtime::logits(std::int32_t slot, const std::vector<QuerySpan>& spans, const std::vector<std::int32_t>& positions,
                     float* out) {
  const std::lock_guard<std::mutex> lock(mutex_);
  logits(kv_.at(slot), spans, positions, out);
}

ConstTensor Runtime::hidden_states(const Slot& slot, const std::vector<QuerySpan>& spans,
                                   const std::vector<std::int32_t>& positions) {
  const std::int32_t length = static_cast<std::int32_t>(slot.canvas.size());
  ForwardBatch batch;
  std::int32_t from = 0;
  auto wanted = positions.begin();
  for (const QuerySpan& span : spans) {
    check(from <= span.start && span.start < span.stop && span.stop <= span.visible && span.visible <= length,
          ErrorKind::kInvalidRequest, "expected ascending spans with start < stop <= visible <= ", length);
    from = span.stop;
    batch.begin(slot.view(), span.visible);
    for (std::int32_t position = span.start; position < span.stop; ++position) {
      const std::int64_t row = batch.add(position);
      if (wanted == positions.end() || *wanted != position) continue;
      batch.wanted.push_back(row);
      ++wanted;
    }
  }
  check(!positions.empty() && wanted == positions.end(), ErrorKind::kInvalidRequest,
        "expected ascending positions within the spans, at least one");
  ConstTensor hidden = model_.forward(stream_, batch);
  hidden.rows = static_cast<std::int64_t>(positions.size());
  return hidden;
}

// out: (hidden.rows, vocab_size) float32, where the table computes.
void Runtime::head(const ConstTensor& hidden, float* out) {
  ops_.matmul(stream_, hidden, weights_.head, /*accumulate=*/false,
              {out, DType::kFloat32, hidden.rows, config_.vocab_size});
  ops_.finish(stream_);
}

void Runtime::head_to_host(const ConstTensor& hidden, float* out) {
  if (memory_.is_host()) return head(hidden, out);
  const Block there(memory_, hidden.rows * config_.vocab_size * size_of(DType::kFloat32));
  head(hidden, reinterpret_cast<float*>(there.data()));
  memory_.download(there.data(), there.num_bytes(), out);
}

void Runtime::logits(const Slot& slot, const std::vector<QuerySpan>& spans, const std::vector<std::int32_t>& positions,
                     float* out) {
  try {
    head_to_host(hidden_states(slot, spans, positions), out);
  } catch (...) {
    memory_.discard();
    throw;
  }
}

// A copy that outlives the next forward.
Runtime::Output Runtime::kept(const ConstTensor& hidden) {
  ops_.finish(stream_);
  Block block(memory_, hidden.rows * row_bytes(hidden.dtype, hidden.cols));
  memory_.copy(hidden.data, block.num_bytes(), block.data());
  return {std::move(block), hidden.dtype, hidden.rows, hidden.cols, device_index_};
}

Runtime::Output Runtime::hidden(std::int32_t slot, const std::vector<QuerySpan>& spans,
                                const std::vector<std::int32_t>& positions) {
  const std::lock_guard<std::mutex> lock(mutex_);
  try {
    return kept(hidden_states(kv_.at(slot), spans, positions));
  } catch (...) {
    memory_.discard();
    throw;
  }
}

void Runtime::head_of(const Output& hidden, std::int64_t begin, std::int64_t end, float* out) {
  const std::lock_guard<std::mutex> lock(mutex_);
  try {
    const char* first = hidden.block.data() + begin * row_bytes(hidden.dtype, hidden.cols);
    head_to_host({first, hidden.dtype, end - begin, hidden.cols}, out);
  } catch (...) {
    memory_.discard();
    throw;
  }
}

Runtime::Output Runtime::forward_in_place(const std::vector<std::int32_t>& tokens, bool hidden) {
  const std::lock_guard<std::mutex> lock(mutex_);
  check(!hidden || is_float(weights_.type.operand), ErrorKind::kConfig,
        "hidden states: expected a compute type that leaves them floats, got ", weights_.type.name);
  const std::int32_t length = static_cast<std::int32_t>(tokens.size());
  std::vector<std::int32_t> positions(tokens.size());
  std::iota(positions.begin(), positions.end(), 0);
  ScopedSlots slots(kv_);
  try {
    const ConstTensor rows = hidden_states(slots.open(tokens), {{0, length, length}}, positions);
    if (hidden) return kept(rows);
    Output out{Block(memory_, rows.rows * config_.vocab_size * size_of(DType::kFloat32)), DType::kFloat32, rows.rows,
               config_.vocab_size, device_index_};
    head(rows, reinterpret_cast<float*>(out.block.data()));
    return out;
  } catch (...) {
    memory_.discard();
    throw;
  }
}

void Runtime::drop(Output output) {
  // Only a device's session, which steps use too, has to be between two of them.
  std::unique_lock<std::mutex> lock(mutex_, std::defer_lock);
  if (!memory_.is_host()) lock.lock();
  const Output last = std::move(output);
}

void Runtime::set_trace(bool on) {
  const std::lock_guard<std::mutex> lock(mutex_);
  trace_.clear();
  stream_.trace = on ? &trace_ : nullptr;
  ops_ = on ? timed(table_) : table_;
}

std::vector<Trace::Entry> Runtime::trace() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return trace_.entries();
}

}  // namespace llada
