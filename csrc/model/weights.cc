#include "model/weights.h"

#include <cmath>
#include <cstring>
#include <initializer_list>
#include <map>

#include "core/check.h"
#include "core/parallel.h"
#include "model/safetensors.h"
#include "model/tensor_names.h"

namespace llada {
namespace {

constexpr std::int64_t kMaxInt8Inputs = 1 << 17;  // more products of 127 * 127 might leave 32 bits

std::string text_of(const std::vector<std::int64_t>& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

// The checkpoint's tensors by record, after a check that the two lists agree.
class Source {
 public:
  Source(const Checkpoint& checkpoint, const ModelConfig& config) {
    std::map<std::string, bool> known;
    for (const TensorRecord& record : tensor_records(config)) {
      const bool quantized = record.is_matrix() && !config.quantization.empty();
      const DType dtype = !quantized ? DType::kFloat32 : config.quantization == "int8" ? DType::kInt8 : DType::kInt4;
      const std::int64_t stored_cols = dtype == DType::kInt4 ? bytes_of(dtype, record.cols) : record.cols;
      std::vector<std::int64_t> shape{record.rows, stored_cols};
      if (record.is_norm()) shape = {record.cols};
      const StoredTensor& values = find(checkpoint, record.name, dtype, shape);
      known[record.name] = true;
      Named named{record.name, {{values.data, values.dtype, record.rows, record.cols}, nullptr}};
      if (quantized) {
        const std::string name = record.name + ".scales";
        shape = {record.rows};
        if (dtype == DType::kInt4) shape.push_back(num_scale_groups(dtype, record.cols));
        named.stored.scales = find(checkpoint, name, DType::kFloat32, shape).data;
        known[name] = true;
      }
      tensors_[{record.kind, record.layer}] = named;
    }
    for (const auto& [name, tensor] : checkpoint.tensors())
      check(known.count(name) > 0, ErrorKind::kUnsupportedModel, tensor.file, ": ", name,
            ": a tensor that this forward pass does not use (expected the published LLaDA layout",
            config.weight_tying ? " with tied weights)" : ")");
  }

  struct Named {
    std::string name;
    StoredWeight stored;
  };
  const Named& at(WeightKind kind, std::int64_t layer) const { return tensors_.at({kind, layer}); }

 private:
  // kFloat32 stands for any of the float types.
  static const StoredTensor& find(const Checkpoint& checkpoint, const std::string& name, DType dtype,
                                  const std::vector<std::int64_t>& shape) {
    const auto found = checkpoint.tensors().find(name);
    check(found != checkpoint.tensors().end(), ErrorKind::kModelFormat, "expected the tensor ", name,
          ", which is missing");
    const StoredTensor& stored = found->second;
    const bool right_type = is_float(dtype) ? is_float(stored.dtype) : stored.dtype == dtype;
    check(right_type, ErrorKind::kUnsupportedModel, stored.file, ": ", name, ": expected dtype ",
          is_float(dtype)         ? "F32, BF16 or F16"
          : dtype == DType::kInt8 ? "I8"
                                  : "U8",
          ", got ", name_of(stored.dtype));
    check(stored.shape == shape, ErrorKind::kModelFormat, stored.file, ": ", name, ": expected shape ", text_of(shape),
          " from config.json, got ", text_of(stored.shape));
    return stored;
  }

  std::map<std::pair<WeightKind, std::int64_t>, Named> tensors_;
};

class Loader {
 public:
  Loader(const Source& source, const Ops& ops, const Memory& memory, Stream stream, Weights& weights)
      : source_(source), ops_(ops), memory_(memory), stream_(stream), weights_(weights) {}

  // A norm weight: float32, but rounded to T.
  ConstTensor vector(WeightKind kind, std::int64_t layer) {
    const auto& [name, stored] = source_.at(kind, layer);
    const ConstTensor& values = stored.values;
    std::vector<float> rounded(static_cast<std::size_t>(values.cols));
    copy_row(name, values, 0, DType::kFloat32, reinterpret_cast<char*>(rounded.data()));
    if (weights_.type.rows == DType::kBFloat16)
      for (float& value : rounded) value = bf16_to_float(float_to_bf16(value));
    char* out = allot(values.cols * 4);
    memory_.upload(rounded.data(), values.cols * 4, out);
    weights_.num_parameters += values.cols;
    return {out, DType::kFloat32, 1, values.cols};
  }

  ConstTensor table(WeightKind kind) {
    const auto& [name, stored] = source_.at(kind, -1);
    const ConstTensor& values = stored.values;
    const std::int64_t num_bytes = values.rows * row_bytes(weights_.type.rows, values.cols);
    char* out = allot(num_bytes);
    if (memory_.is_host()) {
      copy_rows(name, values, weights_.type.rows, out);
    } else {
      const Buffer rounded(num_bytes);
      copy_rows(name, values, weights_.type.rows, rounded.data());
      memory_.upload(rounded.data(), num_bytes, out);
    }
    weights_.num_parameters += values.rows * values.cols;
    return {out, weights_.type.rows, values.rows, values.cols};
  }

  // One packed matrix of the outputs of several tensors, one after the other.
  PackedWeight packed(std::initializer_list<WeightKind> kinds, std::int64_t layer, bool paired = false) {
    PackedWeight form;
    form.dtype = weights_.type.weight;
    form.num_in = source_.at(*kinds.begin(), layer).stored.values.cols;
    form.paired = paired;
    for (const WeightKind kind : kinds) form.num_out += source_.at(kind, layer).stored.values.rows;
    weights_.num_parameters += form.num_out * form.num_in;
    if (const auto& [name, stored] = source_.at(*kinds.begin(), layer);
        kinds.size() == 1 && (is_float(form.dtype) || stored.values.dtype == form.dtype))
      return pack(name, stored, form);
    Joined joined(form, joined_values_, joined_scales_);
    std::string names;
    for (const WeightKind kind : kinds) {
      const auto& [name, stored] = source_.at(kind, layer);
      append(name, stored, joined);
      names += (names.empty() ? "" : " or ") + name;
    }
    return pack(names, joined.whole(), form);
  }

  // K, V and Q: one weight where rows of it can be taken alone, else two.
  void load_attention(std::int64_t layer, LayerWeights& w) {
    PackedWeight form;
    form.dtype = weights_.type.weight;
    form.num_in = source_.at(WeightKind::kQuery, layer).stored.values.cols;
    const std::int64_t row_bytes = ops_.rope_kvq != nullptr ? ops_.packed_row_bytes(form) : 0;
    if (row_bytes == 0) {
      w.query = packed({WeightKind::kQuery}, layer);
      w.key_value = packed({WeightKind::kKey, WeightKind::kValue}, layer);
      return;
    }
    w.key_value_query = packed({WeightKind::kKey, WeightKind::kValue, WeightKind::kQuery}, layer);
    w.key_value = w.query = w.key_value_query;
    w.query.num_out = source_.at(WeightKind::kQuery, layer).stored.values.rows;
    w.key_value.num_out -= w.query.num_out;
    w.query.data = static_cast<const char*>(w.key_value_query.data) + w.key_value.num_out * row_bytes;
  }

  // A tied head is the embedding once more, as a weight: the two are read in different ways.
  PackedWeight packed_embedding() {
    const auto& [name, stored] = source_.at(WeightKind::kEmbedding, -1);
    PackedWeight form;
    form.dtype = weights_.type.weight;
    form.num_out = stored.values.rows;
    form.num_in = stored.values.cols;
    // Rounded to T first, as the embedding is.
    const Buffer rounded(form.num_out * row_bytes(weights_.type.rows, form.num_in));
    copy_rows(name, stored.values, weights_.type.rows, rounded.data());
    const ConstTensor values(rounded.data(), weights_.type.rows, form.num_out, form.num_in);
    if (is_float(form.dtype)) return pack(name, {values, nullptr}, form);
    Joined joined(form, joined_values_, joined_scales_);
    append(name, {values, nullptr}, joined);
    return pack(name, joined.whole(), form);
  }

 private:
  // Memory for the rows of several matrices in the dtype of a packed form, before they are packed.
  struct Joined {
    Joined(const PackedWeight& form_in, Buffer& values_in, Buffer& scales_in)
        : form(form_in), values(values_in), scales(scales_in) {
      values.reserve(form.num_out * bytes_of(form.dtype, form.num_in));
      if (!is_float(form.dtype)) scales.reserve(form.num_out * num_scale_groups(form.dtype, form.num_in) * 4);
    }

    char* next_values() const { return values.data() + num_rows * bytes_of(form.dtype, form.num_in); }
    float* next_scales() const {
      return reinterpret_cast<float*>(scales.data()) + num_rows * num_scale_groups(form.dtype, form.num_in);
    }
    StoredWeight whole() const { return {{values.data(), form.dtype, form.num_out, form.num_in}, scales.data()}; }

    const PackedWeight form;
    Buffer& values;
    Buffer& scales;
    std::int64_t num_rows = 0;  // so far
  };

  void append(const std::string& name, const StoredWeight& from, Joined& to) {
    const ConstTensor& values = from.values;
    if (is_float(to.form.dtype)) {
      copy_rows(name, values, to.form.dtype, to.next_values());
    } else if (is_float(values.dtype)) {
      if (!quantize_weight(stream_, values, to.form.dtype, to.next_values(), to.next_scales())) not_finite(name);
    } else {
      const std::int64_t num_groups = num_scale_groups(values.dtype, values.cols);
      std::memcpy(to.next_values(), values.data,
                  static_cast<std::size_t>(values.rows * bytes_of(values.dtype, values.cols)));
      std::memcpy(to.next_scales(), from.scales, static_cast<std::size_t>(values.rows * num_groups * 4));
    }
    to.num_rows += values.rows;
  }

  PackedWeight pack(const std::string& name, const StoredWeight& weight, PackedWeight form) {
    check(form.dtype != DType::kInt8 || form.num_in <= kMaxInt8Inputs, ErrorKind::kUnsupportedModel, name,
          ": expected at most ", kMaxInt8Inputs, " inputs for int8, got ", form.num_in);
    check(is_float(weight.values.dtype) || is_quantized_weight(stream_, weight), ErrorKind::kModelFormat, name,
          ": expected quantised weights with positive scales, got values outside the format");
    char* data = allot(ops_.packed_bytes(form));
    if (!ops_.pack(stream_, weight, form, data)) not_finite(name);
    form.data = data;
    return form;
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

  const Source& source_;
  const Ops& ops_;
  const Memory& memory_;
  const Stream stream_;
  Weights& weights_;
  Buffer joined_values_, joined_scales_;  // kept between matrices: fresh pages cost more than the copy
};

}  // namespace

std::int64_t num_weight_bytes(const ModelConfig& config, const ComputeType& type, const Ops& ops) {
  const std::int64_t d = config.d_model, q_size = config.num_heads * config.head_dim;
  const auto packed = [&](std::int64_t num_out, std::int64_t num_in, bool paired = false) {
    return ops.packed_bytes({nullptr, type.weight, num_out, num_in, paired});
  };
  const std::int64_t norm = d * size_of(DType::kFloat32);
  const std::int64_t layer = packed(q_size, d) + packed(2 * config.num_kv_heads * config.head_dim, d) +
                             packed(d, q_size) + packed(2 * config.mlp_hidden_size, d, /*paired=*/true) +
                             packed(d, config.mlp_hidden_size) + 2 * norm;
  return config.num_layers * layer + config.vocab_size * row_bytes(type.rows, d) + packed(config.vocab_size, d) + norm;
}

Weights load_weights(const std::string& folder, const ModelConfig& config, const std::string& compute_type,
                     const Ops& ops, const Memory& memory, Stream stream) {
  const Checkpoint checkpoint(folder);
  const Source source(checkpoint, config);
  Weights weights;
  weights.checkpoint_dtype = source.at(WeightKind::kEmbedding, -1).stored.values.dtype;
  weights.type = find_compute_type(compute_type, config.quantization, weights.checkpoint_dtype, ops);
  const std::int64_t needed = num_weight_bytes(config, weights.type, ops), free_bytes = memory.free_bytes();
  check(memory.is_host() || needed <= free_bytes, ErrorKind::kOutOfMemory, "expected ", needed,
        " bytes of free device memory for the weights as ", weights.type.name, ", got ", free_bytes);
  Loader loader(source, ops, memory, stream, weights);
  weights.embedding = loader.table(WeightKind::kEmbedding);
  for (std::int64_t layer = 0; layer < config.num_layers; ++layer) {
    LayerWeights w;
    w.attn_norm = loader.vector(WeightKind::kAttnNorm, layer);
    loader.load_attention(layer, w);
    w.attn_out = loader.packed({WeightKind::kAttnOut}, layer);
    w.mlp_norm = loader.vector(WeightKind::kMlpNorm, layer);
    w.gate_up = loader.packed({WeightKind::kGate, WeightKind::kUp}, layer, /*paired=*/true);
    w.down = loader.packed({WeightKind::kDown}, layer);
    weights.layers.push_back(w);
  }
  weights.norm = loader.vector(WeightKind::kNorm, -1);
  weights.head = config.weight_tying ? loader.packed_embedding() : loader.packed({WeightKind::kHead}, -1);
  return weights;
}

}  // namespace llada
