#include "model/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/check.h"
#include "core/parallel.h"
#include "model/tensor_records.h"
#include "model/weight_source.h"

namespace llada {
namespace {

constexpr std::int64_t kMaxInt8Inputs = 1 << 17;  // more products of 127 * 127 might leave 32 bits
constexpr std::int64_t kPanel = 64;               // outputs of a packed panel on the processor, see ops/ops.h
constexpr std::int64_t kPieceBytes = 2 << 20;     // of a matrix, read and packed at a time: it stays in a core's cache
constexpr std::int64_t kReadBytes = 256 << 10;    // that one worker reads at a time

// Some rows of a matrix.
struct Rows {
  const StoredMatrix* matrix;
  std::int64_t begin;
  std::int64_t count;
};

class Loader {
 public:
  Loader(const WeightSource& source, const Ops& ops, const Memory& memory, Stream stream, Weights& weights)
      : source_(source), ops_(ops), memory_(memory), stream_(stream), weights_(weights) {}

  // Fills the weights, in the order of the records.
  void load(const ModelConfig& config) {
    weights_.layers.resize(config.layers.size());
    const std::int64_t joined = joined_row_bytes(weights_.type, config.d_model, ops_);
    for (const WeightGroup& group : weight_groups(config)) {
      const TensorRecord& first = group.first();
      if (first.kind == WeightKind::kVector) {
        vector_at(first) = vector(source_.at(first));
      } else if (first.kind == WeightKind::kTable) {
        weights_.embedding = table(source_.at(first));
      } else if (joined > 0 && first.name == WeightName::kKey) {
        load_joined(group, joined, layer_at(first));
      } else if (joined == 0 || first.name != WeightName::kQuery) {  // else Q comes with K and V
        matrix_at(first) = packed(matrices_of(group), group.is_paired(), /*as_rows=*/first.is_tied);
      }
    }
  }

 private:
  LayerWeights& layer_at(const TensorRecord& record) { return weights_.layers[static_cast<std::size_t>(record.layer)]; }

  // Where a weight goes that begins with this record.
  ConstTensor& vector_at(const TensorRecord& record) {
    if (record.name == WeightName::kNorm) return weights_.norm;
    return record.name == WeightName::kAttnNorm ? layer_at(record).attn_norm : layer_at(record).mlp_norm;
  }
  PackedWeight& matrix_at(const TensorRecord& record) {
    switch (record.name) {
      case WeightName::kHead:
        return weights_.head;
      case WeightName::kQuery:
        return layer_at(record).query;
      case WeightName::kKey:
        return layer_at(record).key_value;
      case WeightName::kAttnOut:
        return layer_at(record).attn_out;
      case WeightName::kGate:
        return layer_at(record).gate_up;
      case WeightName::kDown:
        return layer_at(record).down;
      default:
        fail(ErrorKind::kInternal, record.stored_names.front(), ": expected the first part of a weight");
    }
  }

  std::vector<const StoredMatrix*> matrices_of(const WeightGroup& group) const {
    std::vector<const StoredMatrix*> matrices;
    for (const TensorRecord& part : group.parts) matrices.push_back(&source_.at(part));
    return matrices;
  }

  // A norm weight: float32, but rounded to T.
  ConstTensor vector(const StoredMatrix& matrix) {
    std::vector<float> rounded(static_cast<std::size_t>(matrix.cols));
    copy_row(matrix.name, read({&matrix, 0, 1}).values, 0, DType::kFloat32, reinterpret_cast<char*>(rounded.data()));
    if (weights_.type.rows == DType::kBFloat16)
      for (float& value : rounded) value = bf16_to_float(float_to_bf16(value));
    char* out = allot(matrix.cols * 4);
    memory_.upload(rounded.data(), matrix.cols * 4, out);
    return {out, DType::kFloat32, 1, matrix.cols};
  }

  ConstTensor table(const StoredMatrix& matrix) {
    const DType dtype = weights_.type.rows;
    const std::int64_t step = row_bytes(dtype, matrix.cols);
    char* out = allot(matrix.rows * step);
    for_pieces(matrix.rows, rows_in_piece(matrix), [&](std::int64_t begin, std::int64_t count) {
      const Rows rows{&matrix, begin, count};
      if (memory_.is_host()) return copy_rows(matrix.name, read(rows).values, dtype, out + begin * step);
      memory_.upload(rounded(rows).values.data, count * step, out + begin * step);
    });
    return {out, dtype, matrix.rows, matrix.cols};
  }

  // K, V and Q as one weight, whose rows can be taken alone.
  void load_joined(const WeightGroup& key_value, std::int64_t step, LayerWeights& w) {
    std::vector<const StoredMatrix*> parts = matrices_of(key_value);
    const StoredMatrix& query = source_.at(WeightName::kQuery, key_value.first().layer);
    parts.push_back(&query);
    w.key_value_query = packed(parts, /*paired=*/false, /*as_rows=*/false);
    w.key_value = w.query = w.key_value_query;
    w.query.num_out = query.rows;
    w.key_value.num_out -= query.rows;
    w.query.data = static_cast<const char*>(w.key_value_query.data) + w.key_value.num_out * step;
  }

  // One packed matrix of the outputs of several tensors, one after the other. as_rows: rounded to T first. In pieces of
  // whole panels on the processor, where a panel knows nothing of the others; else in one.
  PackedWeight packed(const std::vector<const StoredMatrix*>& parts, bool paired, bool as_rows) {
    PackedWeight form;
    form.dtype = weights_.type.weight;
    form.num_in = parts[0]->cols;
    form.paired = paired;
    std::string names;
    for (const StoredMatrix* part : parts) {
      form.num_out += part->rows;
      names += (names.empty() ? "" : " or ") + part->name;
    }
    check(form.dtype != DType::kInt8 || form.num_in <= kMaxInt8Inputs, ErrorKind::kUnsupportedModel, names,
          ": expected at most ", kMaxInt8Inputs, " inputs for int8, got ", form.num_in);
    char* const data = allot(ops_.packed_bytes(form));
    char* next = data;
    const std::int64_t in_piece = memory_.is_host() ? rows_in_piece(*parts[0]) : form.num_out;
    for_pieces(form.num_out, in_piece, [&](std::int64_t begin, std::int64_t count) {
      PackedWeight piece = form;
      piece.num_out = count;
      const std::vector<Rows> rows = paired ? rows_of_pair(parts, begin, count) : rows_of(parts, begin, count);
      pack(names, gathered(rows, piece.dtype, as_rows), piece, next);
      next += ops_.packed_bytes(piece);
    });
    form.data = data;
    return form;
  }

  // Outputs [begin, begin + count) of matrices one after the other.
  static std::vector<Rows> rows_of(const std::vector<const StoredMatrix*>& parts, std::int64_t begin,
                                   std::int64_t count) {
    std::vector<Rows> rows;
    std::int64_t first = 0;  // of a part
    for (const StoredMatrix* part : parts) {
      const std::int64_t from = std::max(begin, first), to = std::min(begin + count, first + part->rows);
      if (from < to) rows.push_back({part, from - first, to - from});
      first += part->rows;
    }
    return rows;
  }

  // A piece of a pair has as many rows of one matrix as of the other.
  static std::vector<Rows> rows_of_pair(const std::vector<const StoredMatrix*>& parts, std::int64_t begin,
                                        std::int64_t count) {
    return {{parts[0], begin / 2, count / 2}, {parts[1], begin / 2, count / 2}};
  }

  // Rows as they go into a packed form of that dtype: as they are stored where packing rounds them, else rounded or
  // quantised. as_rows: rounded to T before. Valid until the next call.
  StoredWeight gathered(const std::vector<Rows>& all, DType dtype, bool as_rows) {
    if (all.size() == 1 && (is_float(dtype) || all[0].matrix->dtype() == dtype))
      return as_rows ? rounded(all[0]) : read(all[0]);
    std::int64_t num_rows = 0;
    for (const Rows& rows : all) num_rows += rows.count;
    const std::int64_t cols = all[0].matrix->cols, value_bytes = bytes_of(dtype, cols);
    const std::int64_t scale_bytes = is_float(dtype) ? 0 : num_scale_groups(dtype, cols) * 4;
    gathered_values_.reserve(num_rows * value_bytes);
    gathered_scales_.reserve(num_rows * scale_bytes);
    std::int64_t at = 0;
    for (const Rows& rows : all) {
      for_pieces(rows.count, rows_in_piece(*rows.matrix), [&](std::int64_t begin, std::int64_t count) {
        const Rows piece{rows.matrix, rows.begin + begin, count};
        convert(piece, as_rows ? rounded(piece) : read(piece), dtype, gathered_values_.data() + at * value_bytes,
                gathered_scales_.data() + at * scale_bytes);
        at += count;
      });
    }
    return {{gathered_values_.data(), dtype, num_rows, cols}, gathered_scales_.data()};
  }

  // What was read of some rows, in another dtype.
  void convert(const Rows& rows, const StoredWeight& from, DType dtype, char* values, char* scales) {
    if (is_float(dtype)) {
      copy_rows(rows.matrix->name, from.values, dtype, values);
    } else if (is_float(from.values.dtype)) {
      if (!quantize_weight(stream_, from.values, dtype, values, reinterpret_cast<float*>(scales)))
        not_finite(rows.matrix->name);
    } else {
      const std::int64_t num_scales = rows.count * num_scale_groups(dtype, from.values.cols);
      std::memcpy(values, from.values.data, static_cast<std::size_t>(rows.count * bytes_of(dtype, from.values.cols)));
      std::memcpy(scales, from.scales, static_cast<std::size_t>(num_scales * 4));
    }
  }

  // Rows as their file has them. Valid until the next call.
  StoredWeight read(const Rows& rows) {
    const StoredMatrix& matrix = *rows.matrix;
    const char* values = read(*matrix.values, rows, bytes_of(matrix.dtype(), matrix.cols), read_values_);
    const char* scales = nullptr;
    if (matrix.scales != nullptr)
      scales = read(*matrix.scales, rows, num_scale_groups(matrix.dtype(), matrix.cols) * 4, read_scales_);
    return {{values, matrix.dtype(), rows.count, matrix.cols}, scales};
  }

  const char* read(const StoredTensor& tensor, const Rows& rows, std::int64_t bytes_in_row, Buffer& to) {
    const std::int64_t num_bytes = rows.count * bytes_in_row, offset = tensor.offset + rows.begin * bytes_in_row;
    to.reserve(num_bytes);
    parallel_for(*stream_.pool, (num_bytes + kReadBytes - 1) / kReadBytes, [&](std::int64_t i, int) {
      const std::int64_t begin = i * kReadBytes, count = std::min(kReadBytes, num_bytes - begin);
      tensor.source->read(offset + begin, count, to.data() + begin);
    });
    return to.data();
  }

  // Rows in T. Valid until the next call.
  StoredWeight rounded(const Rows& rows) {
    const DType dtype = weights_.type.rows;
    rounded_.reserve(rows.count * row_bytes(dtype, rows.matrix->cols));
    copy_rows(rows.matrix->name, read(rows).values, dtype, rounded_.data());
    return {{rounded_.data(), dtype, rows.count, rows.matrix->cols}, nullptr};
  }

  // Whole panels, at least one.
  static std::int64_t rows_in_piece(const StoredMatrix& matrix) {
    return std::max<std::int64_t>(1, kPieceBytes / kPanel / bytes_of(matrix.dtype(), matrix.cols)) * kPanel;
  }

  template <class Function>
  static void for_pieces(std::int64_t num_rows, std::int64_t in_piece, const Function& function) {
    for (std::int64_t begin = 0; begin < num_rows; begin += in_piece)
      function(begin, std::min(in_piece, num_rows - begin));
  }

  void pack(const std::string& name, const StoredWeight& weight, const PackedWeight& form, char* out) {
    check(is_float(weight.values.dtype) || is_quantized_weight(stream_, weight), ErrorKind::kModelFormat, name,
          ": expected quantised weights with positive scales, got values outside the format");
    if (!ops_.pack(stream_, weight, form, out)) not_finite(name);
  }

  char* allot(std::int64_t num_bytes) {
    weights_.memory.emplace_back(memory_, num_bytes);
    weights_.num_bytes += num_bytes;
    return weights_.memory.back().data();
  }

  [[noreturn]] static void not_finite(const std::string& name) {
    fail(ErrorKind::kModelFormat, name, ": expected finite weights, got NaN or infinity");
  }

  // All rows of a matrix, rounded to `dtype`.
  void copy_rows(const std::string& name, ConstTensor from, DType dtype, char* out) {
    const std::int64_t step = row_bytes(dtype, from.cols);
    parallel_for(*stream_.pool, from.rows,
                 [&](std::int64_t r, int) { copy_row(name, from, r, dtype, out + r * step); });
  }

  static void copy_row(const std::string& name, ConstTensor from, std::int64_t row, DType to, char* out) {
    if (from.dtype == DType::kBFloat16 && to == DType::kBFloat16) return copy_bfloat16(name, from, row, out);
    for (std::int64_t i = 0; i < from.cols; ++i) {
      const char* at = static_cast<const char*>(from.data) + (row * from.cols + i) * size_of(from.dtype);
      float value;
      if (from.dtype == DType::kFloat32) {
        std::memcpy(&value, at, 4);
      } else {
        std::uint16_t half;
        std::memcpy(&half, at, 2);
        value = from.dtype == DType::kBFloat16 ? bf16_to_float(half) : f16_to_float(half);
      }
      if (!std::isfinite(value)) not_finite(name);
      if (to == DType::kFloat32) {
        std::memcpy(out + i * 4, &value, 4);
      } else {
        const std::uint16_t rounded = float_to_bf16(value);
        if (!std::isfinite(bf16_to_float(rounded))) not_finite(name);
        std::memcpy(out + i * 2, &rounded, 2);
      }
    }
  }

  // The common case: nothing to round. The check is a loop of its own, for the compiler to use whole vectors.
  static void copy_bfloat16(const std::string& name, ConstTensor from, std::int64_t row, char* out) {
    const char* at = static_cast<const char*>(from.data) + row * from.cols * 2;
    std::memcpy(out, at, static_cast<std::size_t>(from.cols * 2));
    std::uint16_t not_finite_bits = 0;
    for (std::int64_t i = 0; i < from.cols; ++i) {
      std::uint16_t bits;
      std::memcpy(&bits, at + 2 * i, 2);
      not_finite_bits |= static_cast<std::uint16_t>((bits & 0x7f80u) == 0x7f80u);
    }
    if (not_finite_bits != 0) not_finite(name);
  }

  const WeightSource& source_;
  const Ops& ops_;
  const Memory& memory_;
  const Stream stream_;
  Weights& weights_;
  // Kept between pieces: fresh pages cost more than the copy.
  Buffer read_values_, read_scales_, rounded_, gathered_values_, gathered_scales_;
};

}  // namespace

std::int64_t joined_row_bytes(const ComputeType& type, std::int64_t num_in, const Ops& ops) {
  return ops.rope_kvq == nullptr ? 0 : ops.packed_row_bytes({nullptr, type.weight, 0, num_in, /*paired=*/false});
}

std::int64_t num_weight_bytes(const ModelConfig& config, const ComputeType& type, const Ops& ops) {
  std::int64_t num_bytes = 0;
  for (const WeightGroup& group : weight_groups(config)) {
    const std::int64_t num_out = group.num_out(), num_in = group.num_in();
    switch (group.first().kind) {
      case WeightKind::kVector:
        num_bytes += num_in * size_of(DType::kFloat32);
        break;
      case WeightKind::kTable:
        num_bytes += num_out * row_bytes(type.rows, num_in);
        break;
      case WeightKind::kMatrix:
        num_bytes += ops.packed_bytes({nullptr, type.weight, num_out, num_in, group.is_paired()});
    }
  }
  return num_bytes;
}

const ComputeType& compute_type_of(const std::string& folder, const ModelConfig& config,
                                   const std::string& compute_type, const Ops& ops) {
  const WeightSource source(folder, config);
  return find_compute_type(compute_type, config.quantization, source.embedding_dtype(), ops);
}

Weights load_weights(const std::string& folder, const ModelConfig& config, const std::string& compute_type,
                     const Ops& ops, const Memory& memory, Stream stream) {
  const WeightSource source(folder, config);
  Weights weights;
  weights.checkpoint_dtype = source.embedding_dtype();
  weights.type = find_compute_type(compute_type, config.quantization, weights.checkpoint_dtype, ops);
  const std::int64_t needed = num_weight_bytes(config, weights.type, ops), free_bytes = memory.free_bytes();
  check(memory.is_host() || needed <= free_bytes, ErrorKind::kOutOfMemory, "expected ", needed,
        " bytes of free device memory for the weights as ", weights.type.name, ", got ", free_bytes);
  Loader(source, ops, memory, stream, weights).load(config);
  return weights;
}

}  // namespace llada
