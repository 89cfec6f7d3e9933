#include "model/quantization.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "core/check.h"
#include "core/parallel.h"

namespace llada {
namespace {

constexpr std::int64_t kGroup = 32;
constexpr ComputeType kComputeTypes[] = {
    {"float32", DType::kFloat32, DType::kFloat32, DType::kFloat32},
    {"bfloat16", DType::kBFloat16, DType::kBFloat16, DType::kBFloat16},
    {"int8", DType::kBFloat16, DType::kInt8, DType::kInt8},
    {"int8_bfloat16", DType::kBFloat16, DType::kBFloat16, DType::kInt8},
    {"int4", DType::kBFloat16, DType::kBFloat16, DType::kInt4},
    {"float8", DType::kBFloat16, DType::kFloat8, DType::kFloat8},
};

// Any folder of floats runs in everything that the table multiplies; of integers, in what multiplies these integers.
bool can_run(const ComputeType& type, const std::string& stored, const Ops& ops) {
  return (stored.empty() || stored == name_of(type.weight)) && ops.multiplies(type.operand, type.weight);
}

void widen_row(ConstTensor from, std::int64_t row, float* out) {
  const char* at = static_cast<const char*>(from.data) + row * from.cols * size_of(from.dtype);
  if (from.dtype == DType::kFloat32) {
    std::memcpy(out, at, static_cast<std::size_t>(from.cols) * 4);
    return;
  }
  for (std::int64_t i = 0; i < from.cols; ++i) {
    std::uint16_t half;
    std::memcpy(&half, at + 2 * i, 2);
    out[i] = from.dtype == DType::kBFloat16 ? bf16_to_float(half) : f16_to_float(half);
  }
}

// q of n values into `out`, and their scale. `limit`: the largest q.
float quantize_group(const float* w, std::int64_t n, int limit, std::int32_t* out) {
  constexpr float kBig = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const float largest_q = static_cast<float>(limit);
  float largest = 0;
  for (std::int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(w[i]));
  const float scale = largest / largest_q > 0 ? largest / largest_q : 1.0f;
  for (std::int64_t i = 0; i < n; ++i) {
    const float clipped = std::min(std::max(w[i] / scale, -largest_q), largest_q);
    out[i] = static_cast<std::int32_t>(bits_of(clipped + kBig)) - static_cast<std::int32_t>(bits_of(kBig));
  }
  return scale;
}

float quantize_float8(const float* w, std::int64_t n, char* out) {
  float largest = 0;
  for (std::int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(w[i]));
  const float scale = largest / 448.0f > 0 ? largest / 448.0f : 1.0f;
  for (std::int64_t i = 0; i < n; ++i) out[i] = static_cast<char>(float_to_float8(w[i] / scale));
  return scale;
}

bool all_finite(const float* values, std::int64_t n) {
  bool finite = true;
  for (std::int64_t i = 0; i < n; ++i) finite &= (bits_of(values[i]) & 0x7f800000u) != 0x7f800000u;
  return finite;
}

void store_int4(const std::int32_t* q, std::int64_t n, char* out) {
  for (std::int64_t i = 0; i < n; i += 2) {
    const std::int32_t high = i + 1 < n ? q[i + 1] : 0;
    out[i / 2] = static_cast<char>((q[i] + 8) | (high + 8) << 4);
  }
}

}  // namespace

std::span<const ComputeType> compute_types() { return kComputeTypes; }

double bits_per_weight(const ComputeType& type) {
  const std::int64_t scales = num_scale_groups(type.weight, 2 * kGroup) - num_scale_groups(type.weight, kGroup);
  return 8.0 * static_cast<double>(bytes_of(type.weight, kGroup) + 4 * scales) / static_cast<double>(kGroup);
}

std::vector<const ComputeType*> runnable_types(const std::string& stored, const Ops& ops) {
  std::vector<const ComputeType*> types;
  for (const ComputeType& type : kComputeTypes)
    if (can_run(type, stored, ops)) types.push_back(&type);
  return types;
}

const ComputeType& find_compute_type(const std::string& name, const std::string& stored, DType checkpoint,
                                     const Ops& ops) {
  const std::string own = !stored.empty() ? stored : checkpoint == DType::kFloat32 ? "float32" : "bfloat16";
  std::string possible = "auto";
  for (const ComputeType* type : runnable_types(stored, ops)) {
    if (type->name == (name == "auto" ? own : name)) return *type;
    possible += std::string(", ") + type->name;
  }
  fail(ErrorKind::kConfig, "compute_type: expected one of ", possible,
       stored.empty() ? "" : " for a model quantised to " + stored, ", got \"", name, "\"");
}

std::int64_t num_scale_groups(DType dtype, std::int64_t cols) {
  return dtype == DType::kInt4 ? (cols + kGroup - 1) / kGroup : 1;
}

bool quantize_weight(Stream stream, ConstTensor from, DType dtype, char* values, float* scales) {
  const std::int64_t num_groups = num_scale_groups(dtype, from.cols);
  const std::int64_t value_bytes = bytes_of(dtype, from.cols);
  std::atomic<bool> finite{true};
  parallel_for(*stream.pool, from.rows, [&](std::int64_t r, int worker) {
    float* w = reinterpret_cast<float*>(stream.pool->scratch(worker, from.cols * 8));
    std::int32_t* q = reinterpret_cast<std::int32_t*>(w + from.cols);
    widen_row(from, r, w);
    if (!all_finite(w, from.cols)) {
      finite.store(false, std::memory_order_relaxed);
      return;
    }
    char* out = values + r * value_bytes;
    if (dtype == DType::kFloat8) {
      scales[r] = quantize_float8(w, from.cols, out);
      return;
    }
    if (dtype == DType::kInt8) {
      scales[r] = quantize_group(w, from.cols, 127, q);
      for (std::int64_t i = 0; i < from.cols; ++i) out[i] = static_cast<char>(q[i]);
      return;
    }
    for (std::int64_t g = 0; g < num_groups; ++g) {
      const std::int64_t begin = g * kGroup, n = std::min(kGroup, from.cols - begin);
      scales[r * num_groups + g] = quantize_group(w + begin, n, 7, q + begin);
    }
    store_int4(q, from.cols, out);
  });
  return finite.load();
}

bool is_quantized_weight(Stream stream, const StoredWeight& weight) {
  const ConstTensor& v = weight.values;
  const std::int64_t num_groups = num_scale_groups(v.dtype, v.cols), value_bytes = bytes_of(v.dtype, v.cols);
  std::atomic<bool> good{true};
  parallel_for(*stream.pool, v.rows, [&](std::int64_t r, int) {
    const char* values = static_cast<const char*>(v.data) + r * value_bytes;
    const char* scales = static_cast<const char*>(weight.scales) + r * num_groups * 4;
    bool row_good = true;
    for (std::int64_t i = 0; i < value_bytes; ++i) {
      if (v.dtype == DType::kInt8)
        row_good &= static_cast<signed char>(values[i]) != -128;
      else if (v.dtype == DType::kFloat8)
        row_good &= (values[i] & 0x7f) != 0x7f;
      else
        row_good &= (values[i] & 0x0f) != 0 && (values[i] & 0xf0) != 0;
    }
    if (v.dtype == DType::kInt4 && v.cols % 2 != 0) row_good &= (values[value_bytes - 1] & 0xf0) == 0x80;
    for (std::int64_t g = 0; g < num_groups; ++g) {
      float scale;
      std::memcpy(&scale, scales + 4 * g, 4);
      row_good &= scale > 0 && scale <= std::numeric_limits<float>::max();
    }
    if (!row_good) good.store(false, std::memory_order_relaxed);
  });
  return good.load();
}

}  // namespace llada
