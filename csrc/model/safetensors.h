// A bounded reader of safetensors files and of their shard index. Every number of the header is checked against the
// file before it is used: offsets in range, no overlap, no hole, sizes without overflow, no name twice. Format:
// https://github.com/huggingface/safetensors (8 bytes header length, JSON header, data).
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "model/files.h"

namespace llada {

struct StoredTensor {
  std::string name;
  DType dtype = DType::kFloat32;    // U8, a byte of two values, is kInt4
  std::vector<std::int64_t> shape;  // as in the file: of kInt4 in bytes
  const ModelFile* source = nullptr;
  std::int64_t offset = 0;  // of its first byte in the file
  std::string file;         // its name
};

// All tensors of a model folder: model.safetensors, or the shards that model.safetensors.index.json names. The files
// stay open as long as this does; nothing but their headers is read.
class Checkpoint {
 public:
  // Throws ModelNotFoundError, ModelFormatError (with file and tensor) or UnsupportedModelError (element type).
  explicit Checkpoint(const std::string& folder);

  const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }

 private:
  void add_file(const std::string& folder, const std::string& name);

  std::vector<std::unique_ptr<ModelFile>> files_;
  std::map<std::string, StoredTensor> tensors_;
};

}  // namespace llada
