#include "model/llada.h"

#include <algorithm>

#include "model/rope_angles.h"

namespace llada {
namespace {

Block placed(const Buffer& buffer, const Memory& memory) {
  Block out(memory, buffer.num_bytes());
  memory.upload(buffer.data(), buffer.num_bytes(), out.data());
  return out;
}

}  // namespace

void ForwardBatch::clear() {
  tokens.clear();
  positions.clear();
  wanted.clear();
  parts.clear();
}

void ForwardBatch::begin(const Slot& slot, std::int64_t visible) {
  const std::int64_t row = static_cast<std::int64_t>(tokens.size());
  parts.push_back({row, row, visible, &slot});
}

std::int64_t ForwardBatch::add(std::int32_t position) {
  Part& part = parts.back();
  tokens.push_back(part.slot->canvas[static_cast<std::size_t>(position)]);
  positions.push_back(position);
  return part.row_end++;
}

Llada::Llada(const ModelConfig& config, const Weights& weights, const Ops& ops, const Memory& memory)
    : config_(config),
      weights_(weights),
      ops_(ops),
      memory_(memory),
      shape_{config.num_heads, config.num_kv_heads, config.head_dim},
      angle_memory_(placed(rope_angles(config.max_sequence_length, config.head_dim, config.rope_theta), memory)),
      angles_(angle_memory_.data(), DType::kFloat32, config.max_sequence_length, config.head_dim) {}

Tensor Llada::tensor(Block& block, DType dtype, std::int64_t rows, std::int64_t cols) {
  block.reserve(memory_, rows * row_bytes(dtype, cols));
  return {block.data(), dtype, rows, cols};
}

ConstTensor Llada::forward(Stream stream, const ForwardBatch& batch) {
  const std::int64_t num_rows = static_cast<std::int64_t>(batch.tokens.size());
  x_ = tensor(residual_, DType::kFloat32, num_rows, config_.d_model);
  positions_ = batch.positions;
  ops_.embed(stream, batch.tokens.data(), weights_.embedding, x_);
  for (std::int64_t layer = 0; layer < config_.num_layers; ++layer) {
    const bool last = layer + 1 == config_.num_layers;
    attention_block(stream, layer, batch, last);
    if (x_.rows > 0) mlp_block(stream, weights_.layers[static_cast<std::size_t>(layer)]);
  }
  normed_rows_ = tensor(normed_, weights_.type.operand, x_.rows, config_.d_model);
  ops_.rms_norm(stream, x_, weights_.norm, static_cast<float>(config_.rms_norm_eps), normed_rows_);
  return normed_rows_;
}

// x += attn_out(attention(rope(q), slot)); K and V of all rows go to the slot first. In the last layer only the wanted
// rows go on: nobody reads the hidden state of the others.
void Llada::attention_block(Stream stream, std::int64_t layer, const ForwardBatch& batch, bool last) {
  const LayerWeights& w = weights_.layers[static_cast<std::size_t>(layer)];
  const DType dtype = weights_.type.rows;
  const std::int64_t q_size = config_.num_heads * config_.head_dim;

  normed_rows_ = tensor(normed_, weights_.type.operand, x_.rows, config_.d_model);
  ops_.rms_norm(stream, x_, w.attn_norm, static_cast<float>(config_.rms_norm_eps), normed_rows_);
  if (!last && w.key_value_query.data != nullptr) {
    const Tensor kvq = tensor(projected_, DType::kFloat32, x_.rows, w.key_value_query.num_out);
    ops_.matmul(stream, normed_rows_, w.key_value_query, /*accumulate=*/false, kvq);
    fill_spans(batch, layer, /*only_wanted=*/false);
    const Tensor rotated = tensor(queries_, dtype, x_.rows, q_size);
    ops_.rope_kvq(stream, kvq, angles_, positions_.data(), shape_, spans_.data(),
                  static_cast<std::int64_t>(spans_.size()), rotated);
    return attend(stream, w, rotated);
  }
  const Tensor kv = tensor(projected_, DType::kFloat32, x_.rows, w.key_value.num_out);
  ops_.matmul(stream, normed_rows_, w.key_value, /*accumulate=*/false, kv);
  fill_spans(batch, layer, /*only_wanted=*/false);
  ops_.rope_kv_write(stream, kv, angles_, positions_.data(), shape_, dtype, spans_.data(),
                     static_cast<std::int64_t>(spans_.size()));

  if (last) {
    keep_wanted_rows(stream, batch);
    fill_spans(batch, layer, /*only_wanted=*/true);
  }
  if (x_.rows == 0) return;
  const Tensor q = tensor(projected_, DType::kFloat32, x_.rows, q_size);
  ops_.matmul(stream, normed_rows_, w.query, /*accumulate=*/false, q);
  const Tensor rotated = tensor(queries_, dtype, x_.rows, q_size);
  ops_.rope(stream, q, angles_, positions_.data(), config_.head_dim, rotated);
  attend(stream, w, rotated);
}

// x += attn_out(attention(queries, slot)).  queries: (rows, num_heads * head_dim), rotated
void Llada::attend(Stream stream, const LayerWeights& w, const Tensor& queries) {
  const Tensor attended = tensor(attended_, before_product(), queries.rows, queries.cols);
  ops_.attention(stream, queries, shape_, spans_.data(), static_cast<std::int64_t>(spans_.size()), attended);
  ops_.matmul(stream, as_operand(stream, attended), w.attn_out, /*accumulate=*/true, x_);
}

// The type of rows that no op can quantise as it writes them: their scale is known only when all units are done.
DType Llada::before_product() const {
  return is_float(weights_.type.operand) ? weights_.type.operand : DType::kFloat32;
}

Tensor Llada::as_operand(Stream stream, const Tensor& rows) {
  if (rows.dtype == weights_.type.operand) return rows;
  const Tensor out = tensor(quantized_, weights_.type.operand, rows.rows, rows.cols);
  ops_.quantize(stream, rows, out);
  return out;
}

// x += down(silu(gate(h)) * up(h)), h = norm(x).
void Llada::mlp_block(Stream stream, const LayerWeights& w) {
  normed_rows_ = tensor(normed_, weights_.type.operand, x_.rows, config_.d_model);
  ops_.rms_norm(stream, x_, w.mlp_norm, static_cast<float>(config_.rms_norm_eps), normed_rows_);
  const std::int64_t whole_packs = (config_.mlp_hidden_size + 1) / 2 * 2;
  const Tensor activated = tensor(activated_, before_product(), x_.rows, whole_packs);
  ops_.matmul_swiglu(stream, normed_rows_, w.gate_up, activated);
  ops_.matmul(stream, as_operand(stream, activated), w.down, /*accumulate=*/true, x_);
}

std::int64_t Llada::workspace_bytes(std::int64_t num_rows) const {
  const std::int64_t q_size = config_.num_heads * config_.head_dim;
  const std::int64_t kv_size = 2 * config_.num_kv_heads * config_.head_dim;
  const DType operand = weights_.type.operand;
  const bool one_product = weights_.layers.size() > 1 && weights_.layers[0].key_value_query.data != nullptr;
  const std::int64_t projected = one_product ? kv_size + q_size : std::max(q_size, kv_size);
  const std::int64_t float32 = (config_.d_model + projected) * size_of(DType::kFloat32);
  const std::int64_t before = (q_size + config_.mlp_hidden_size) * size_of(before_product());
  const std::int64_t quantized = before_product() == operand ? 0 : std::max(q_size, config_.mlp_hidden_size);
  return num_rows *
         (float32 + row_bytes(operand, config_.d_model) + q_size * size_of(weights_.type.rows) + before + quantized);
}

void Llada::fill_spans(const ForwardBatch& batch, std::int64_t layer, bool only_wanted) {
  spans_.clear();
  std::int64_t next = 0;  // of the wanted rows
  for (const ForwardBatch::Part& part : batch.parts) {
    RowSpan span{part.row_begin, part.row_end, part.visible, part.slot->layers[static_cast<std::size_t>(layer)]};
    if (only_wanted) {
      span.row_begin = next;
      while (next < static_cast<std::int64_t>(batch.wanted.size()) &&
             batch.wanted[static_cast<std::size_t>(next)] < part.row_end)
        ++next;
      span.row_end = next;
    }
    if (span.row_end > span.row_begin) spans_.push_back(span);
  }
}

// Moves the wanted rows of the residual stream, of the normed rows and of the positions to the front, in place. Some
// rows may stay behind them, to fill the bucket.
void Llada::keep_wanted_rows(Stream stream, const ForwardBatch& batch) {
  kept_.assign(batch.wanted.begin(), batch.wanted.end());
  const std::int64_t bucket = ops_.row_bucket;
  const std::int64_t whole = (static_cast<std::int64_t>(kept_.size()) + bucket - 1) / bucket * bucket;
  while (static_cast<std::int64_t>(kept_.size()) < std::min(whole, x_.rows))
    kept_.push_back(static_cast<std::int32_t>(kept_.size()));
  const std::int64_t num_kept = static_cast<std::int64_t>(kept_.size());
  ops_.keep_rows(stream, kept_.data(), num_kept, x_);
  ops_.keep_rows(stream, kept_.data(), num_kept, normed_rows_);
  x_.rows = normed_rows_.rows = num_kept;
  for (std::size_t i = 0; i < kept_.size(); ++i) positions_[i] = batch.positions[static_cast<std::size_t>(kept_[i])];
}

}  // namespace llada
