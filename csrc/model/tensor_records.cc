#include "model/tensor_records.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "core/check.h"

namespace llada {
namespace {

struct Shape {
  std::int64_t rows;
  std::int64_t cols;
};

Shape shape_of(WeightName name, const ModelConfig& config, std::int64_t layer) {
  const LayerConfig own = layer >= 0 ? config.layer(layer) : LayerConfig{};
  const std::int64_t d = config.d_model, mlp = own.mlp_hidden_size;
  const std::int64_t q = config.num_heads * own.head_dim, kv = config.num_kv_heads * own.head_dim;
  switch (name) {
    case WeightName::kEmbedding:
    case WeightName::kHead:
      return {config.vocab_size, d};
    case WeightName::kNorm:
    case WeightName::kAttnNorm:
    case WeightName::kMlpNorm:
      return {1, d};
    case WeightName::kQuery:
      return {q, d};
    case WeightName::kKey:
    case WeightName::kValue:
      return {kv, d};
    case WeightName::kAttnOut:
      return {d, q};
    case WeightName::kGate:
    case WeightName::kUp:
      return {mlp, d};
    case WeightName::kDown:
      return {d, mlp};
  }
  fail(ErrorKind::kInternal, "expected a name of a weight");
}

WeightKind kind_of(WeightName name) {
  switch (name) {
    case WeightName::kEmbedding:
      return WeightKind::kTable;
    case WeightName::kNorm:
    case WeightName::kAttnNorm:
    case WeightName::kMlpNorm:
      return WeightKind::kVector;
    default:
      return WeightKind::kMatrix;
  }
}

Packing packing_of(WeightName name) {
  if (name == WeightName::kKey || name == WeightName::kValue) return Packing::kKeyValue;
  if (name == WeightName::kGate || name == WeightName::kUp) return Packing::kGateUp;
  return Packing::kAlone;
}

// Heads, units of the MLP and tokens are shared out. What writes to the residual stream sums over them.
ShardAxis shard_axis_of(WeightName name) {
  if (kind_of(name) == WeightKind::kVector) return ShardAxis::kNone;
  return name == WeightName::kAttnOut || name == WeightName::kDown ? ShardAxis::kCols : ShardAxis::kRows;
}

}  // namespace

void RecordList::add(WeightName name, std::vector<std::string> stored_names, std::int64_t layer, std::int64_t expert) {
  const bool is_tied = name == WeightName::kHead && config_.tied_head;
  if (is_tied) {
    const auto is_embedding = [](const TensorRecord& record) { return record.name == WeightName::kEmbedding; };
    stored_names = std::find_if(records_.begin(), records_.end(), is_embedding)->stored_names;
  }
  const Shape shape = shape_of(name, config_, layer);
  records_.push_back({name, layer, expert, kind_of(name), packing_of(name), shard_axis_of(name), shape.rows, shape.cols,
                      std::move(stored_names), is_tied});
}

std::int64_t WeightGroup::num_out() const {
  std::int64_t rows = 0;
  for (const TensorRecord& part : parts) rows += part.rows;
  return rows;
}

std::vector<TensorRecord> tensor_records(const ModelConfig& config) { return config.family->tensor_records(config); }

std::vector<WeightGroup> weight_groups(const ModelConfig& config) {
  std::vector<WeightGroup> groups;
  std::map<std::tuple<Packing, std::int64_t, std::int64_t>, std::size_t> index_of;
  for (const TensorRecord& record : tensor_records(config)) {
    const auto key = std::tuple(record.packing, record.layer, record.expert);
    const auto found = record.packing == Packing::kAlone ? index_of.end() : index_of.find(key);
    if (found != index_of.end()) {
      groups[found->second].parts.push_back(record);
      continue;
    }
    index_of[key] = groups.size();
    groups.push_back({{record}});
  }
  for (WeightGroup& group : groups) {
    std::sort(group.parts.begin(), group.parts.end(),
              [](const TensorRecord& a, const TensorRecord& b) { return a.name < b.name; });
    const std::size_t expected = group.first().packing == Packing::kAlone ? 1 : 2;
    check(group.parts.size() == expected, ErrorKind::kInternal, group.first().stored_names.front(), ": expected ",
          expected, " tensors to pack, got ", group.parts.size());
  }
  return groups;
}

std::int64_t num_parameters(const ModelConfig& config) {
  std::int64_t count = 0;
  for (const TensorRecord& record : tensor_records(config))
    if (!record.is_tied) count += record.rows * record.cols;
  return count;
}

}  // namespace llada
