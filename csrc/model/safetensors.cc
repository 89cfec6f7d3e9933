#include "model/safetensors.h"

#include <algorithm>
#include <set>

#include "core/check.h"
#include "core/json.h"
#include "core/text.h"

namespace llada {
namespace {

// 4,096 layers of quantised matrices have some 75,000 tensors, of 140 bytes each in a header, of less in an index.
constexpr std::uint64_t kMaxHeaderBytes = 16 << 20;
constexpr std::int64_t kMaxIndexBytes = 16 << 20;
constexpr std::size_t kMaxRank = 8;

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (const std::int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

DType parse_dtype(std::string_view text, const std::string& where) {
  if (text == "F32") return DType::kFloat32;
  if (text == "BF16") return DType::kBFloat16;
  if (text == "F16") return DType::kFloat16;
  if (text == "I8") return DType::kInt8;
  if (text == "U8") return DType::kInt4;
  fail(ErrorKind::kUnsupportedModel, where, ": expected dtype F32, BF16, F16, I8 or U8, got ", excerpt(text));
}

struct Extent {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

StoredTensor parse_tensor(std::string_view name, const Json& record, const std::string& where, Extent& extent) {
  record.as_object(where);
  for (const auto& [key, value] : record.as_object(where))
    check(key == "dtype" || key == "shape" || key == "data_offsets", ErrorKind::kModelFormat, where,
          ": expected dtype, shape and data_offsets, got \"", excerpt(key), "\"");
  const auto member = [&](const char* key) -> const Json& {
    const Json* value = record.find(key);
    check(value != nullptr, ErrorKind::kModelFormat, where, ": expected the key \"", key, "\", which is missing");
    return *value;
  };
  StoredTensor tensor;
  tensor.name = name;
  tensor.dtype = parse_dtype(member("dtype").as_string(where + ": dtype"), where);
  std::int64_t num_bytes = size_of(tensor.dtype);
  const auto shape = member("shape").as_array(where + ": shape");
  check(shape.size() <= kMaxRank, ErrorKind::kModelFormat, where, ": expected at most ", kMaxRank, " dimensions, got ",
        shape.size());
  for (const Json& entry : shape) {
    const std::int64_t size = entry.as_integer(where + ": shape");
    check(size >= 0, ErrorKind::kModelFormat, where, ": expected sizes of at least 0, got ", size);
    tensor.shape.push_back(size);
    check(!__builtin_mul_overflow(num_bytes, size, &num_bytes), ErrorKind::kModelFormat, where,
          ": expected a size within 64 bits, got shape ", shape_text(tensor.shape));
  }
  const auto offsets = member("data_offsets").as_array(where + ": data_offsets");
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
  const JsonDocument index(read_text_file(resolve_model_file(folder, index_name), kMaxIndexBytes), index_name);
  const Json* weight_map = index.root().find("weight_map");
  check(weight_map != nullptr, ErrorKind::kModelFormat, index_name,
        ": expected the key \"weight_map\", which is missing");
  std::map<std::string, std::string> file_of;
  std::set<std::string> shards;
  for (const auto& [name, file] : weight_map->as_object(index_name + ": weight_map")) {
    const std::string shard(file.as_string(index_name + ": " + excerpt(name)));
    file_of.emplace(name, shard);
    shards.insert(shard);
  }
  if (has_single && shards.count(single_name) == 0) {
    add_file(folder, single_name);
    return;
  }
  for (const std::string& shard : shards) add_file(folder, shard);
  for (const auto& [name, file] : file_of) {
    const auto found = tensors_.find(name);
    check(found != tensors_.end() && found->second.file == file, ErrorKind::kModelFormat, index_name, ": expected ",
          excerpt(name), " in ", excerpt(file), ", got it ",
          found == tensors_.end() ? "nowhere" : "in " + excerpt(found->second.file));
  }
}

void Checkpoint::add_file(const std::string& folder, const std::string& name) {
  files_.push_back(std::make_unique<ModelFile>(resolve_model_file(folder, name)));
  const ModelFile& file = *files_.back();
  const std::string shown = excerpt(name);
  const std::uint64_t file_bytes = static_cast<std::uint64_t>(file.num_bytes());
  std::string begin(std::min<std::size_t>(file_bytes, 1024), '\0');  // a pointer of git-lfs has no more
  file.read(0, static_cast<std::int64_t>(begin.size()), begin.data());
  if (begin.size() == file_bytes) check_is_no_pointer(shown, begin);
  check(file_bytes >= 8, ErrorKind::kModelFormat, shown, ": expected at least 8 bytes, got ", file_bytes);
  std::uint64_t header_bytes = 0;
  for (std::size_t i = 8; i-- > 0;) header_bytes = header_bytes << 8 | static_cast<unsigned char>(begin[i]);
  check(header_bytes <= std::min(kMaxHeaderBytes, file_bytes - 8), ErrorKind::kModelFormat, shown,
        ": expected a header of at most ", std::min(kMaxHeaderBytes, file_bytes - 8), " bytes, got ", header_bytes);
  std::string text(static_cast<std::size_t>(header_bytes), '\0');
  file.read(8, static_cast<std::int64_t>(header_bytes), text.data());
  const JsonDocument header(std::move(text), shown);
  const std::int64_t data_begin = static_cast<std::int64_t>(8 + header_bytes);
  const std::int64_t data_bytes = static_cast<std::int64_t>(file_bytes) - data_begin;

  std::vector<std::pair<Extent, std::string_view>> extents;
  for (const auto& [tensor_name, record] : header.root().as_object(shown)) {
    if (tensor_name == "__metadata__") continue;
    Extent extent;
    const std::string where = shown + ": " + excerpt(tensor_name);
    StoredTensor tensor = parse_tensor(tensor_name, record, where, extent);
    check(extent.end <= data_bytes, ErrorKind::kModelFormat, where, ": expected data within ", data_bytes,
          " bytes, got data_offsets to ", extent.end, " (is the file truncated?)");
    tensor.source = &file;
    tensor.offset = data_begin + extent.begin;
    tensor.file = name;
    extents.emplace_back(extent, tensor_name);
    const auto [place, inserted] = tensors_.emplace(tensor_name, std::move(tensor));
    check(inserted, ErrorKind::kModelFormat, where, ": expected each tensor once, got it in ",
          excerpt(place->second.file), " too");
  }
  std::sort(extents.begin(), extents.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first.begin, a.first.end) < std::pair(b.first.begin, b.first.end);
  });
  std::int64_t end = 0;
  for (const auto& [extent, tensor_name] : extents) {
    check(extent.begin == end, ErrorKind::kModelFormat, shown, ": ", excerpt(tensor_name), ": expected data from byte ",
          end, ", got ", extent.begin, extent.begin < end ? " (tensors overlap)" : " (a hole)");
    end = extent.end;
  }
  check(end == data_bytes, ErrorKind::kModelFormat, shown, ": expected ", end, " bytes of data, got ", data_bytes);
}

}  // namespace llada
