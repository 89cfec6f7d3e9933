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

std::string text_of(const std::vector<std::int64_t>& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

DType choose_compute_type(const std::string& requested, DType checkpoint) {
  if (requested == "float32") return DType::kFloat32;
  if (requested == "bfloat16") return DType::kBFloat16;
  check(requested == "auto", ErrorKind::kConfig, "compute_type: expected auto, float32 or bfloat16, got \"", requested,
        "\"");
  return checkpoint == DType::kFloat32 ? DType::kFloat32 : DType::kBFloat16;
}

// The checkpoint's tensors by record, after a check that the two lists agree.
class Source {
 public:
  Source(const Checkpoint& checkpoint, const ModelConfig& config) {
    std::map<std::string, bool> known;
    for (const TensorRecord& record : tensor_records(config)) {
      known[record.name] = true;
      const auto found = checkpoint.tensors().find(record.name);
      check(found != checkpoint.tensors().end(), ErrorKind::kModelFormat, "expected the tensor ", record.name,
            ", which is missing");
      const StoredTensor& stored = found->second;
      const std::vector<std::int64_t> shape = record.is_norm() ? std::vector<std::int64_t>{record.cols}
                                                               : std::vector<std::int64_t>{record.rows, record.cols};
      check(stored.shape == shape, ErrorKind::kModelFormat, stored.file, ": ", record.name, ": expected shape ",
            text_of(shape), " from config.json, got ", text_of(stored.shape));
      tensors_[{record.kind, record.layer}] = {record.name, {stored.data, stored.dtype, record.rows, record.cols}};
    }
    for (const auto& [name, tensor] : checkpoint.tensors())
      check(known.count(name) > 0, ErrorKind::kUnsupportedModel, tensor.file, ": ", name,
            ": a tensor that this forward pass does not use (expected the published LLaDA layout",
            config.weight_tying ? " with tied weights)" : ")");
  }

  struct Named {
    std::string name;
    ConstTensor tensor;
  };
  const Named& at(WeightKind kind, std::int64_t layer) const { return tensors_.at({kind, layer}); }

 private:
  std::map<std::pair<WeightKind, std::int64_t>, Named> tensors_;
};

class Loader {
 public:
  Loader(const Source& source, const Ops& ops, Stream stream, Weights& weights)
      : source_(source), ops_(ops), stream_(stream), weights_(weights) {}

  // A norm weight: float32, but rounded to the compute type.
  ConstTensor vector(WeightKind kind, std::int64_t layer) {
    const auto& [name, stored] = source_.at(kind, layer);
    float* out = reinterpret_cast<float*>(allot(stored.cols * 4));
    copy_row(name, stored, 0, DType::kFloat32, reinterpret_cast<char*>(out));
    if (weights_.dtype == DType::kBFloat16)
      for (std::int64_t i = 0; i < stored.cols; ++i) out[i] = bf16_to_float(float_to_bf16(out[i]));
    weights_.num_parameters += stored.cols;
    return {out, DType::kFloat32, 1, stored.cols};
  }

  ConstTensor table(WeightKind kind) {
    const auto& [name, stored] = source_.at(kind, -1);
    char* out = allot(stored.rows * stored.cols * size_of(weights_.dtype));
    copy_rows(name, stored, out);
    weights_.num_parameters += stored.rows * stored.cols;
    return {out, weights_.dtype, stored.rows, stored.cols};
  }

  // One packed matrix of the outputs of several tensors, one after the other.
  PackedWeight packed(std::initializer_list<WeightKind> kinds, std::int64_t layer) {
    if (kinds.size() == 1) {
      const auto& [name, stored] = source_.at(*kinds.begin(), layer);
      weights_.num_parameters += stored.rows * stored.cols;
      return pack(name, stored);
    }
    Buffer joined;
    ConstTensor whole;
    std::string names;
    for (const WeightKind kind : kinds) whole.rows += source_.at(kind, layer).tensor.rows;
    whole.cols = source_.at(*kinds.begin(), layer).tensor.cols;
    joined.reserve(whole.rows * whole.cols * size_of(weights_.dtype));
    char* at = joined.data();
    for (const WeightKind kind : kinds) {
      const auto& [name, stored] = source_.at(kind, layer);
      copy_rows(name, stored, at);
      at += stored.rows * stored.cols * size_of(weights_.dtype);
      names += (names.empty() ? "" : " or ") + name;
    }
    whole.data = joined.data();
    whole.dtype = weights_.dtype;
    weights_.num_parameters += whole.rows * whole.cols;
    return pack(names, whole);
  }

  PackedWeight pack(const std::string& name, ConstTensor matrix) {
    char* data = allot(ops_.packed_bytes(matrix.rows, matrix.cols, weights_.dtype));
    if (!ops_.pack(stream_, matrix, weights_.dtype, data)) not_finite(name);
    return {data, weights_.dtype, matrix.rows, matrix.cols};
  }

 private:
  char* allot(std::int64_t num_bytes) {
    weights_.memory.emplace_back(num_bytes);
    weights_.num_bytes += num_bytes;
    return weights_.memory.back().data();
  }

  [[noreturn]] static void not_finite(const std::string& name) {
    fail(ErrorKind::kModelFormat, name, ": expected finite weights, got NaN or infinity");
  }

  // All rows of a matrix, rounded to the compute type.
  void copy_rows(const std::string& name, ConstTensor from, char* out) {
    const std::int64_t row_bytes = from.cols * size_of(weights_.dtype);
    parallel_for(*stream_.pool, from.rows,
                 [&](std::int64_t r, int) { copy_row(name, from, r, weights_.dtype, out + r * row_bytes); });
  }

  static void copy_row(const std::string& name, ConstTensor from, std::int64_t row, DType to, char* out) {
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

  const Source& source_;
  const Ops& ops_;
  const Stream stream_;
  Weights& weights_;
};

}  // namespace

Weights load_weights(const std::string& folder, const ModelConfig& config, const std::string& compute_type,
                     const Ops& ops, Stream stream) {
  const Checkpoint checkpoint(folder);
  const Source source(checkpoint, config);
  Weights weights;
  weights.checkpoint_dtype = source.at(WeightKind::kEmbedding, -1).tensor.dtype;
  weights.dtype = choose_compute_type(compute_type, weights.checkpoint_dtype);
  Loader loader(source, ops, stream, weights);
  weights.embedding = loader.table(WeightKind::kEmbedding);
  for (std::int64_t layer = 0; layer < config.num_layers; ++layer) {
    LayerWeights w;
    w.attn_norm = loader.vector(WeightKind::kAttnNorm, layer);
    w.query = loader.packed({WeightKind::kQuery}, layer);
    w.key_value = loader.packed({WeightKind::kKey, WeightKind::kValue}, layer);
    w.attn_out = loader.packed({WeightKind::kAttnOut}, layer);
    w.mlp_norm = loader.vector(WeightKind::kMlpNorm, layer);
    w.gate_up = loader.packed({WeightKind::kGate, WeightKind::kUp}, layer);
    w.down = loader.packed({WeightKind::kDown}, layer);
    weights.layers.push_back(w);
  }
  weights.norm = loader.vector(WeightKind::kNorm, -1);
  // A tied head is the embedding once more in packed order: the two are read in different ways.
  if (config.weight_tying)
    weights.head = loader.pack("model.transformer.wte.weight", weights.embedding);
  else
    weights.head = loader.packed({WeightKind::kHead}, -1);
  return weights;
}

}  // namespace llada
