// The tensors of a checkpoint by the records of the model, after a check that the two lists agree.
#pragma once

#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "model/config.h"
#include "model/safetensors.h"
#include "model/tensor_records.h"

namespace llada {

// A matrix in the files; a vector is one of a single row.
struct StoredMatrix {
  std::string name;
  const StoredTensor* values = nullptr;
  const StoredTensor* scales = nullptr;  // of a quantised one
  std::int64_t rows = 0;
  std::int64_t cols = 0;

  DType dtype() const { return values->dtype; }
};

class WeightSource {
 public:
  // Throws ModelNotFoundError, ModelFormatError (missing, wrong shape) or UnsupportedModelError (extra, element type).
  WeightSource(const std::string& folder, const ModelConfig& config);

  const StoredMatrix& at(WeightName name, std::int64_t layer = -1, std::int64_t expert = -1) const {
    return matrices_.at({name, layer, expert});
  }
  const StoredMatrix& at(const TensorRecord& record) const { return at(record.name, record.layer, record.expert); }

  DType embedding_dtype() const { return at(WeightName::kEmbedding).dtype(); }

 private:
  const std::string& stored_name(const TensorRecord& record) const;
  const StoredTensor& find(const std::string& name, DType dtype, const std::vector<std::int64_t>& shape) const;

  const Checkpoint checkpoint_;
  std::map<std::tuple<WeightName, std::int64_t, std::int64_t>, StoredMatrix> matrices_;
};

}  // namespace llada
