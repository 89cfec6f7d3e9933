#include "model/safetensors.h"

#include <algorithm>
#include <set>

#include "core/check.h"
#include "core/json.h"

namespace llada {
namespace {

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr std::int64_t kMaxIndexBytes = 64 << 20;
constexpr std::size_t kMaxRank = 8;

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (const std::int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

DType parse_dtype(const std::string& text, const std::string& where) {
  if (text == "F32") return DType::kFloat32;
  if (text == "BF16") return DType::kBFloat16;
  if (text == "F16") return DType::kFloat16;
  if (text == "I8") return DType::kInt8;
  if (text == "U8") return DType::kInt4;
  fail(ErrorKind::kUnsupportedModel, where, ": expected dtype F32, BF16, F16, I8 or U8, got ", text);
}

struct Extent {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

StoredTensor parse_tensor(const std::string& name, const Json& record, const std::string& where, Extent& extent) {
  record.as_object(where);
  for (const auto& [key, value] : record.as_object(where))
    check(key == "dtype" || key == "shape" || key == "data_offsets", ErrorKind::kModelFormat, where,
          ": expected dtype, shape and data_offsets, got \"", key, "\"");
  const auto member = [&](const char* key) -> const Json& {
    const Json* value = record.find(key);
    check(value != nullptr, ErrorKind::kModelFormat, where, ": expected the key \"", key, "\", which is missing");
    return *value;
  };
  StoredTensor tensor;
  tensor.name = name;
  tensor.dtype = parse_dtype(member("dtype").as_string(where + ": dtype"), where);
  std::int64_t num_bytes = size_of(tensor.dtype);
  const auto& shape = member("shape").as_array(where + ": shape");
  check(shape.size() <= kMaxRank, ErrorKind::kModelFormat, where, ": expected at most ", kMaxRank, " dimensions, got ",
        shape.size());
  for (const Json& entry : shape) {
    const std::int64_t size = entry.as_integer(where + ": shape");
    check(size >= 0, ErrorKind::kModelFormat, where, ": expected sizes of at least 0, got ", size);
    tensor.shape.push_back(size);
    check(!__builtin_mul_overflow(num_bytes, size, &num_bytes), ErrorKind::kModelFormat, where,
          ": expected a size within 64 bits, got shape ", shape_text(tensor.shape));
  }
  const auto& offsets = member("data_offsets").as_array(where + ": data_offsets");
  check(offsets.size() == 2, ErrorKind::kModelFormat, where, ": expected two data_offsets, got ", offsets.size());
  extent.begin = offsets[0].as_integer(where + ": data_offsets");
  extent.end = offsets[1].as_integer(where + ": data_offsets");
  check(extent.begin >= 0 && extent.end >= extent.begin && extent.end - extent.begin == num_bytes,
        ErrorKind::kModelFormat, where, ": expected data_offsets that span ", num_bytes, " bytes (",
        shape_text(tensor.shape), "), got ", extent.begin, " to ", extent.end);
  return tensor;
}

}  // namespace

// In transformers' order: the single file, whatever index of an earlier save lies beside it, then the index.
Checkpoint::Checkpoint(const std::string& folder) {
  const std::string single_name = "model.safetensors", index_name = "model.safetensors.index.json";
  const bool has_single = model_file_exists(folder, single_name);
  if (!model_file_exists(folder, index_name)) {
    const bool pickle = !has_single && (model_file_exists(folder, "pytorch_model.bin") ||
                                        model_file_exists(folder, "pytorch_model.bin.index.json") ||
                                        model_file_exists(folder, "model.pt"));
    check(!pickle, ErrorKind::kUnsupportedModel,
          "expected model.safetensors, got a pickled PyTorch checkpoint, which can run code and is never opened: "
          "convert it to safetensors first");
    add_file(folder, single_name);
    return;
  }
  const std::string text = read_text_file(resolve_model_file(folder, index_name), kMaxIndexBytes);
  const Json index = Json::parse(text, index_name);
  const Json* weight_map = index.find("weight_map");
  check(weight_map != nullptr, ErrorKind::kModelFormat, index_name,
        ": expected the key \"weight_map\", which is missing");
  std::map<std::string, std::string> file_of;
  std::set<std::string> shards;
  for (const auto& [name, file] : weight_map->as_object(index_name + ": weight_map")) {
    file_of[name] = file.as_string(index_name + ": " + name);
    shards.insert(file_of[name]);
  }
  if (has_single && shards.count(single_name) == 0) {
    add_file(folder, single_name);
    return;
  }
  for (const std::string& shard : shards) add_file(folder, shard);
  for (const auto& [name, file] : file_of) {
    const auto found = tensors_.find(name);
    check(found != tensors_.end() && found->second.file == file, ErrorKind::kModelFormat, index_name, ": expected ",
          name, " in ", file, ", got it ", found == tensors_.end() ? "nowhere" : "in " + found->second.file);
  }
}

void Checkpoint::add_file(const std::string& folder, const std::string& name) {
  files_.push_back(std::make_unique<MappedFile>(resolve_model_file(folder, name)));
  const MappedFile& file = *files_.back();
  const std::uint64_t file_bytes = static_cast<std::uint64_t>(file.num_bytes());
  check_is_no_pointer(name, {file.data(), static_cast<std::size_t>(file.num_bytes())});
  check(file_bytes >= 8, ErrorKind::kModelFormat, name, ": expected at least 8 bytes, got ", file_bytes);
  std::uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | static_cast<unsigned char>(file.data()[i]);
  check(header_bytes <= std::min(kMaxHeaderBytes, file_bytes - 8), ErrorKind::kModelFormat, name,
        ": expected a header of at most ", std::min(kMaxHeaderBytes, file_bytes - 8), " bytes, got ", header_bytes);
  const Json header = Json::parse({file.data() + 8, static_cast<std::size_t>(header_bytes)}, name);
  const char* data = file.data() + 8 + header_bytes;
  const std::int64_t data_bytes = static_cast<std::int64_t>(file_bytes - 8 - header_bytes);

  std::vector<std::pair<Extent, std::string>> extents;
  for (const auto& [tensor_name, record] : header.as_object(name)) {
    if (tensor_name == "__metadata__") continue;
    Extent extent;
    StoredTensor tensor = parse_tensor(tensor_name, record, name + ": " + tensor_name, extent);
    check(extent.end <= data_bytes, ErrorKind::kModelFormat, name, ": ", tensor_name, ": expected data within ",
          data_bytes, " bytes, got data_offsets to ", extent.end, " (is the file truncated?)");
    tensor.data = data + extent.begin;
    tensor.file = name;
    extents.emplace_back(extent, tensor_name);
    const auto [place, inserted] = tensors_.emplace(tensor_name, std::move(tensor));
    check(inserted, ErrorKind::kModelFormat, name, ": ", tensor_name, ": expected each tensor once, got it in ",
          place->second.file, " too");
  }
  std::sort(extents.begin(), extents.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first.begin, a.first.end) < std::pair(b.first.begin, b.first.end);
  });
  std::int64_t end = 0;
  for (const auto& [extent, tensor_name] : extents) {
    check(extent.begin == end, ErrorKind::kModelFormat, name, ": ", tensor_name, ": expected data from byte ", end,
          ", got ", extent.begin, extent.begin < end ? " (tensors overlap)" : " (a hole)");
    end = extent.end;
  }
  check(end == data_bytes, ErrorKind::kModelFormat, name, ": expected ", end, " bytes of data, got ", data_bytes);
}

}  // namespace llada
