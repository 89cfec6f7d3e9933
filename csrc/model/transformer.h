// The transformer: the forward pass over a ragged batch, which writes K/V into the slots on the way. A LayerConfig says
// what a layer is. The transformer computes hidden states; denoise/ decides what becomes of them.
#pragma once

#include <vector>

#include "model/batch.h"
#include "model/config.h"
#include "model/weights.h"
#include "ops/memory.h"

namespace llada {

// Bytes that forwards of `num_rows` work in once they have run, on the table's side.
std::int64_t forward_bytes(const ModelConfig& config, const ComputeType& type, const Ops& ops, std::int64_t num_rows);

// Rotation angles once a canvas of `length` has been computed: their positions, the columns of each, which layers
// share, and their bytes.
std::int64_t num_angle_positions(const ModelConfig& config, std::int64_t length);
std::int64_t num_angle_columns(const ModelConfig& config);
std::int64_t angle_bytes(const ModelConfig& config, std::int64_t length);

class Transformer {
 public:
  Transformer(const ModelConfig& config, const Weights& weights, const Ops& ops, const Memory& memory);

  // Final normed hidden states of the wanted rows: (num_wanted or more, d_model), ready for the head, valid until the
  // next call.
  ConstTensor forward(Stream stream, const ForwardBatch& batch);

 private:
  void need_angles(std::int64_t num_positions);
  void attention_block(Stream stream, std::int64_t layer, const ForwardBatch& batch, bool last);
  void attend(Stream stream, std::int64_t layer, const Tensor& queries);
  void mlp_block(Stream stream, std::int64_t layer);
  HeadShape head_shape(std::int64_t layer) const;
  const LayerWeights& weights_of(std::int64_t layer) const;
  Tensor as_operand(Stream stream, const Tensor& rows);
  Tensor tensor(Block& block, DType dtype, std::int64_t rows, std::int64_t cols);
  void fill_spans(const ForwardBatch& batch, std::int64_t layer, bool only_wanted);
  void keep_wanted_rows(Stream stream, const ForwardBatch& batch);

  const ModelConfig& config_;
  const Weights& weights_;
  const Ops& ops_;
  const Memory& memory_;
  Block angle_memory_;
  ConstTensor angles_;  // (positions so far, rotary_dim): cos, then sin; made as they are needed

  // Workspace, grown to the largest batch seen. residual: float32; rows and heads in the compute type.
  Block residual_, normed_, projected_, queries_, attended_, activated_, quantized_;
  Tensor x_;  // the residual stream of the current rows
  Tensor normed_rows_;
  std::vector<std::int32_t> positions_;  // of the current rows
  std::vector<std::int32_t> kept_;       // rows that the last layer goes on with
  std::vector<RowSpan> spans_;           // of the current rows, in the slots of the current layer
};

}  // namespace llada
