#include "model/transformer.h"

#include <algorithm>
#include <bit>

#include "model/rope_angles.h"

namespace llada {
namespace {

constexpr std::int64_t kFirstAngles = 4096;  // positions whose angles are made at once; later ones by doubling

// The type of rows that no op can quantise as it writes them: their scale is known only when all units are done.
DType before_product(const ComputeType& type) { return is_float(type.operand) ? type.operand : DType::kFloat32; }

// The largest sizes over all layers: one set of buffers serves the layers in turn.
struct Widest {
  std::int64_t q_size = 0;   // num_heads * head_dim
  std::int64_t kv_size = 0;  // K and V
  std::int64_t mlp = 0;      // in whole packs
};

std::int64_t whole_packs(std::int64_t cols) { return (cols + 1) / 2 * 2; }

Widest widest(const ModelConfig& config) {
  Widest most;
  for (const LayerConfig& layer : config.layers) {
    most.q_size = std::max(most.q_size, config.num_heads * layer.head_dim);
    most.kv_size = std::max(most.kv_size, 2 * config.num_kv_heads * layer.head_dim);
    most.mlp = std::max(most.mlp, whole_packs(layer.mlp_hidden_size));
  }
  return most;
}

}  // namespace

std::int64_t num_angle_columns(const ModelConfig& config) { return config.layer(0).rotary_dim; }

std::int64_t num_angle_positions(const ModelConfig& config, std::int64_t length) {
  const auto doubled = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(length)));
  return std::min(config.max_sequence_length, std::max(kFirstAngles, doubled));
}

std::int64_t angle_bytes(const ModelConfig& config, std::int64_t length) {
  return num_angle_positions(config, length) * num_angle_columns(config) * size_of(DType::kFloat32);
}

std::int64_t forward_bytes(const ModelConfig& config, const ComputeType& type, const Ops& ops, std::int64_t num_rows) {
  const auto [q_size, kv_size, mlp] = widest(config);
  const std::int64_t d = config.d_model;
  const bool joined = joined_row_bytes(type, d, ops) > 0 && config.num_layers() > 1;
  const std::int64_t projected = joined ? kv_size + q_size : std::max(q_size, kv_size);
  const DType before = before_product(type);
  const std::int64_t quantized = before == type.operand ? 0 : row_bytes(type.operand, std::max(q_size, mlp));
  // residual, normed, projected, queries, attended, activated, quantized
  return num_rows * (d * size_of(DType::kFloat32) + row_bytes(type.operand, d) + projected * size_of(DType::kFloat32) +
                     row_bytes(type.rows, q_size) + row_bytes(before, q_size) + row_bytes(before, mlp) + quantized);
}

Transformer::Transformer(const ModelConfig& config, const Weights& weights, const Ops& ops, const Memory& memory)
    : config_(config), weights_(weights), ops_(ops), memory_(memory) {
  need_angles(1);
}

HeadShape Transformer::head_shape(std::int64_t layer) const {
  return {config_.num_heads, config_.num_kv_heads, config_.layer(layer).head_dim};
}

const LayerWeights& Transformer::weights_of(std::int64_t layer) const {
  return weights_.layers[static_cast<std::size_t>(layer)];
}

// A model's longest canvas is what its file says, so angles are made for as many positions as there has been a canvas.
void Transformer::need_angles(std::int64_t num_positions) {
  if (num_positions <= angles_.rows) return;
  const std::int64_t rows = num_angle_positions(config_, num_positions), cols = num_angle_columns(config_);
  const std::int64_t num_bytes = rows * row_bytes(DType::kFloat32, cols);
  angles_ = {};
  angle_memory_.reserve(memory_, num_bytes);
  if (memory_.is_host()) {
    fill_rope_angles(rows, cols, config_.rope_theta, reinterpret_cast<float*>(angle_memory_.data()));
  } else {
    const Buffer made = rope_angles(rows, cols, config_.rope_theta);
    memory_.upload(made.data(), num_bytes, angle_memory_.data());
  }
  angles_ = {angle_memory_.data(), DType::kFloat32, rows, cols};
}

Tensor Transformer::tensor(Block& block, DType dtype, std::int64_t rows, std::int64_t cols) {
  block.reserve(memory_, rows * row_bytes(dtype, cols));
  return {block.data(), dtype, rows, cols};
}

ConstTensor Transformer::forward(Stream stream, const ForwardBatch& batch) {
  const std::int64_t num_rows = static_cast<std::int64_t>(batch.tokens.size());
  std::int64_t num_positions = 1;
  for (const std::int32_t position : batch.positions)
    num_positions = std::max<std::int64_t>(num_positions, position + 1);
  need_angles(num_positions);
  x_ = tensor(residual_, DType::kFloat32, num_rows, config_.d_model);
  positions_ = batch.positions;
  ops_.embed(stream, batch.tokens.data(), weights_.embedding, x_);
  for (std::int64_t layer = 0; layer < config_.num_layers(); ++layer) {
    const bool last = layer + 1 == config_.num_layers();
    attention_block(stream, layer, batch, last);
    if (x_.rows > 0) mlp_block(stream, layer);
  }
  normed_rows_ = tensor(normed_, weights_.type.operand, x_.rows, config_.d_model);
  ops_.rms_norm(stream, x_, weights_.norm, static_cast<float>(config_.rms_norm_eps), normed_rows_);
  return normed_rows_;
}

// x += attn_out(attention(rope(q), slot)); K and V of all rows go to the slot first. In the last layer only the wanted
// rows go on: nobody reads the hidden state of the others.
void Transformer::attention_block(Stream stream, std::int64_t layer, const ForwardBatch& batch, bool last) {
  const LayerWeights& w = weights_of(layer);
  const HeadShape shape = head_shape(layer);
  const DType dtype = weights_.type.rows;
  const std::int64_t q_size = shape.num_heads * shape.head_dim;
  // One array where both are the same, which a device is then sent once.
  const std::int32_t* const places = batch.has_gaps ? batch.places.data() : positions_.data();

  normed_rows_ = tensor(normed_, weights_.type.operand, x_.rows, config_.d_model);
  ops_.rms_norm(stream, x_, w.attn_norm, static_cast<float>(config_.rms_norm_eps), normed_rows_);
  if (!last && w.key_value_query.data != nullptr) {
    const Tensor kvq = tensor(projected_, DType::kFloat32, x_.rows, w.key_value_query.num_out);
    ops_.matmul(stream, normed_rows_, w.key_value_query, /*accumulate=*/false, kvq);
    fill_spans(batch, layer, /*only_wanted=*/false);
    const Tensor rotated = tensor(queries_, dtype, x_.rows, q_size);
    ops_.rope_kvq(stream, kvq, angles_, positions_.data(), places, shape, spans_.data(),
                  static_cast<std::int64_t>(spans_.size()), rotated);
    return attend(stream, layer, rotated);
  }
  const Tensor kv = tensor(projected_, DType::kFloat32, x_.rows, w.key_value.num_out);
  ops_.matmul(stream, normed_rows_, w.key_value, /*accumulate=*/false, kv);
  fill_spans(batch, layer, /*only_wanted=*/false);
  ops_.rope_kv_write(stream, kv, angles_, positions_.data(), places, shape, dtype, spans_.data(),
                     static_cast<std::int64_t>(spans_.size()));

  if (last) {
    keep_wanted_rows(stream, batch);
    fill_spans(batch, layer, /*only_wanted=*/true);
  }
  if (x_.rows == 0) return;
  const Tensor q = tensor(projected_, DType::kFloat32, x_.rows, q_size);
  ops_.matmul(stream, normed_rows_, w.query, /*accumulate=*/false, q);
  const Tensor rotated = tensor(queries_, dtype, x_.rows, q_size);
  ops_.rope(stream, q, angles_, positions_.data(), shape.head_dim, rotated);
  attend(stream, layer, rotated);
}

// x += attn_out(attention(queries, slot)).  queries: (rows, num_heads * head_dim), rotated
void Transformer::attend(Stream stream, std::int64_t layer, const Tensor& queries) {
  const Tensor attended = tensor(attended_, before_product(weights_.type), queries.rows, queries.cols);
  ops_.attention(stream, queries, head_shape(layer), spans_.data(), static_cast<std::int64_t>(spans_.size()), attended);
  ops_.matmul(stream, as_operand(stream, attended), weights_of(layer).attn_out, /*accumulate=*/true, x_);
}

Tensor Transformer::as_operand(Stream stream, const Tensor& rows) {
  if (rows.dtype == weights_.type.operand) return rows;
  const Tensor out = tensor(quantized_, weights_.type.operand, rows.rows, rows.cols);
  ops_.quantize(stream, rows, out);
  return out;
}

// x += down(silu(gate(h)) * up(h)), h = norm(x).
void Transformer::mlp_block(Stream stream, std::int64_t layer) {
  const LayerWeights& w = weights_of(layer);
  normed_rows_ = tensor(normed_, weights_.type.operand, x_.rows, config_.d_model);
  ops_.rms_norm(stream, x_, w.mlp_norm, static_cast<float>(config_.rms_norm_eps), normed_rows_);
  const std::int64_t hidden_size = whole_packs(config_.layer(layer).mlp_hidden_size);
  const Tensor activated = tensor(activated_, before_product(weights_.type), x_.rows, hidden_size);
  ops_.matmul_swiglu(stream, normed_rows_, w.gate_up, activated);
  ops_.matmul(stream, as_operand(stream, activated), w.down, /*accumulate=*/true, x_);
}

void Transformer::fill_spans(const ForwardBatch& batch, std::int64_t layer, bool only_wanted) {
  spans_.clear();
  std::int64_t next = 0;  // of the wanted rows
  for (const ForwardBatch::Part& part : batch.parts) {
    RowSpan span{part.row_begin, part.row_end, part.visible, part.slot.layers[layer]};
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
void Transformer::keep_wanted_rows(Stream stream, const ForwardBatch& batch) {
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
