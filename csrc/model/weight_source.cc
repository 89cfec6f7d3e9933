#include "model/weight_source.h"

#include <set>

#include "core/check.h"
#include "core/text.h"
#include "model/quantization.h"

namespace llada {
namespace {

std::string text_of(const std::vector<std::int64_t>& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

// In the files; kFloat32 stands for any of the float types.
DType stored_dtype(const TensorRecord& record, const std::string& quantization) {
  if (record.kind != WeightKind::kMatrix || record.is_tied || quantization.empty()) return DType::kFloat32;
  return quantization == "int8" ? DType::kInt8 : DType::kInt4;
}

}  // namespace

WeightSource::WeightSource(const std::string& folder, const ModelConfig& config) : checkpoint_(folder) {
  std::set<std::string> known;
  for (const TensorRecord& record : tensor_records(config)) {
    const DType dtype = stored_dtype(record, config.quantization);
    const std::int64_t stored_cols = dtype == DType::kInt4 ? bytes_of(dtype, record.cols) : record.cols;
    std::vector<std::int64_t> shape{record.rows, stored_cols};
    if (record.kind == WeightKind::kVector) shape = {record.cols};
    const std::string& name = stored_name(record);
    StoredMatrix matrix{name, &find(name, dtype, shape), nullptr, record.rows, record.cols};
    known.insert(name);
    if (!is_float(dtype)) {
      const std::string scales = name + ".scales";
      shape = {record.rows};
      if (dtype == DType::kInt4) shape.push_back(num_scale_groups(dtype, record.cols));
      matrix.scales = &find(scales, DType::kFloat32, shape);
      check(matrix.scales->dtype == DType::kFloat32, ErrorKind::kUnsupportedModel, scales, ": expected dtype F32, got ",
            name_of(matrix.scales->dtype));
      known.insert(scales);
    }
    matrices_[{record.name, record.layer, record.expert}] = matrix;
  }
  for (const auto& [name, tensor] : checkpoint_.tensors())
    check(known.count(name) > 0, ErrorKind::kUnsupportedModel, excerpt(tensor.file), ": ", excerpt(name),
          ": a tensor that this forward pass does not use (expected the published ", config.family->name, " layout",
          config.tied_head ? " with tied weights)" : ")");
}

// The name of a record that the files have.
const std::string& WeightSource::stored_name(const TensorRecord& record) const {
  std::string names;
  for (const std::string& name : record.stored_names) {
    if (checkpoint_.tensors().count(name) > 0) return name;
    names += (names.empty() ? "" : " or ") + name;
  }
  fail(ErrorKind::kModelFormat, "expected the tensor ", names, ", which is missing");
}

const StoredTensor& WeightSource::find(const std::string& name, DType dtype,
                                       const std::vector<std::int64_t>& shape) const {
  const auto found = checkpoint_.tensors().find(name);
  check(found != checkpoint_.tensors().end(), ErrorKind::kModelFormat, "expected the tensor ", name,
        ", which is missing");
  const StoredTensor& stored = found->second;
  const bool right_type = is_float(dtype) ? is_float(stored.dtype) : stored.dtype == dtype;
  check(right_type, ErrorKind::kUnsupportedModel, excerpt(stored.file), ": ", name, ": expected dtype ",
        is_float(dtype)         ? "F32, BF16 or F16"
        : dtype == DType::kInt8 ? "I8"
                                : "U8",
        ", got ", name_of(stored.dtype));
  check(stored.shape == shape, ErrorKind::kModelFormat, excerpt(stored.file), ": ", name, ": expected shape ",
        text_of(shape), " from config.json, got ", text_of(stored.shape));
  return stored;
}

}  // namespace llada
