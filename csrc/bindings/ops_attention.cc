#include "bindings/ops_attention.h"

#include <numeric>

#include "model/rope_angles.h"

namespace llada {
namespace {

// A slot for one layer, with head-major K and V as KvView describes.
struct TestSlot {
  const Memory& place;
  Block memory;
  KvView kv;
  HeadShape shape;
  DType dtype;

  TestSlot(const Memory& place_in, std::int64_t length, HeadShape shape_in, DType dtype_in)
      : place(place_in), shape(shape_in), dtype(dtype_in) {
    kv.capacity = std::max<std::int64_t>(64, (length + 63) / 64 * 64);
    const std::int64_t k_bytes = shape.num_kv_heads * kv.capacity * shape.head_dim * size_of(dtype);
    const std::int64_t v_bytes = shape.num_kv_heads * kv.capacity * v_stride() * size_of(dtype);
    memory = Block(place, k_bytes + v_bytes);
    const Buffer zeros(k_bytes + v_bytes, /*zero=*/true);
    place.upload(zeros.data(), zeros.num_bytes(), memory.data());
    kv.k = memory.data();
    kv.v = memory.data() + k_bytes;
  }
  std::int64_t v_stride() const { return (shape.head_dim + 15) / 16 * 16; }

  // Back to (length, num_kv_heads, head_dim).
  void unpack(std::int64_t length, float* k_out, float* v_out) const {
    const Buffer copy(memory.num_bytes());
    place.download(memory.data(), memory.num_bytes(), copy.data());
    const char* const k = copy.data();
    const char* const v = k + (static_cast<const char*>(kv.v) - static_cast<const char*>(kv.k));
    const std::int64_t pack = dtype == DType::kFloat32 ? 1 : 2;
    for (std::int64_t p = 0; p < length; ++p)
      for (std::int64_t h = 0; h < shape.num_kv_heads; ++h)
        for (std::int64_t d = 0; d < shape.head_dim; ++d) {
          const std::int64_t out = (p * shape.num_kv_heads + h) * shape.head_dim + d;
          const std::int64_t plain = (h * kv.capacity + p) * shape.head_dim + d;
          const std::int64_t k_index = h * kv.capacity * shape.head_dim + p / 16 * 16 * shape.head_dim +
                                       d / pack * 16 * pack + p % 16 * pack + d % pack;
          const std::int64_t v_index =
              h * kv.capacity * v_stride() + p / pack * pack * v_stride() + d * pack + p % pack;
          k_out[out] = element(k, dtype, place.is_host() ? k_index : plain);
          v_out[out] = element(v, dtype, place.is_host() ? v_index : plain);
        }
  }
};

// Angles that rotate nothing: cos 1, sin 0.
inline Rounded no_rotation(std::int64_t num_positions, std::int64_t head_dim) {
  Rounded table = allot(num_positions, head_dim, DType::kFloat32);
  for (std::int64_t i = 0; i < num_positions * head_dim; ++i)
    static_cast<float*>(table.tensor.data)[i] = i % head_dim < head_dim / 2 ? 1.0f : 0.0f;
  return table;
}

Placed on(const Place& place, const Tensor& tensor) { return {place.memory, tensor}; }

HeadShape head_shape(const FloatArray& q, const FloatArray& k) {
  check(q.ndim() == 3 && k.ndim() == 3 && q.shape(2) == k.shape(2) && k.shape(1) > 0 && q.shape(1) % k.shape(1) == 0 &&
            q.shape(2) % 8 == 0,
        ErrorKind::kInvalidRequest, "expected q (n, H, hd) and k (n, Hkv, hd), Hkv dividing H, hd a multiple of 8");
  return {q.shape(1), k.shape(1), q.shape(2)};
}

// places: where in the slot the rows go.
void write(const Place& place, TestSlot& slot, const FloatArray& k, const FloatArray& v, const IntArray& positions,
           const IntArray& places, const Tensor& angles) {
  const View keys = view(k, 3, "k");
  const View values = view(v, 3, "v");
  check(keys.rows == values.rows && keys.cols == values.cols && positions.size() == keys.rows &&
            places.size() == keys.rows,
        ErrorKind::kInvalidRequest, "expected k, v, positions and places of equal length");
  for (py::ssize_t i = 0; i < positions.size(); ++i)
    check(positions.data()[i] >= 0 && positions.data()[i] < angles.rows, ErrorKind::kInvalidRequest,
          "expected positions below ", angles.rows, ", got ", positions.data()[i]);
  for (py::ssize_t i = 0; i < places.size(); ++i)
    check(places.data()[i] >= 0 && places.data()[i] < slot.kv.capacity, ErrorKind::kInvalidRequest,
          "expected places below ", slot.kv.capacity, ", got ", places.data()[i]);
  std::vector<float> joined(static_cast<std::size_t>(2 * keys.rows * keys.cols));
  for (std::int64_t r = 0; r < keys.rows; ++r) {
    std::copy_n(keys.data + r * keys.cols, keys.cols, joined.data() + 2 * r * keys.cols);
    std::copy_n(values.data + r * keys.cols, keys.cols, joined.data() + (2 * r + 1) * keys.cols);
  }
  const RowSpan span{0, keys.rows, slot.kv.capacity, slot.kv};
  const Placed kv = on(place, {joined.data(), DType::kFloat32, keys.rows, 2 * keys.cols});
  place.ops.rope_kv_write(place.stream, kv.tensor, angles, positions.data(), places.data(), slot.shape, slot.dtype,
                          &span, 1);
  place.ops.finish(place.stream);
}

}  // namespace

py::tuple rope_kv_write(const Place& place, const FloatArray& q, const FloatArray& k, const FloatArray& v,
                        const IntArray& positions, std::int64_t length, double theta, const std::string& dtype_name,
                        const std::optional<IntArray>& places) {
  const DType dtype = parse_dtype(dtype_name);
  const HeadShape shape = head_shape(q, k);
  const View queries = view(q, 3, "q");
  TestSlot slot(place.memory, length, shape, dtype);
  std::int64_t num_angles = length;
  for (py::ssize_t i = 0; i < positions.size() && places; ++i)
    num_angles = std::max<std::int64_t>(num_angles, positions.data()[i] + 1);
  const Buffer memory = rope_angles(num_angles, shape.head_dim, theta);
  const Placed angles = on(place, {memory.data(), DType::kFloat32, num_angles, shape.head_dim});
  write(place, slot, k, v, positions, places.value_or(positions), angles.tensor);
  const Rounded out = allot(queries.rows, queries.cols, dtype);
  const Placed device_q = on(place, whole(q, queries.rows, queries.cols)), device_out = on(place, out.tensor);
  place.ops.rope(place.stream, device_q.tensor, angles.tensor, positions.data(), shape.head_dim, device_out.tensor);
  device_out.fetch(place);
  FloatArray k_out({length, shape.num_kv_heads, shape.head_dim}), v_out({length, shape.num_kv_heads, shape.head_dim});
  slot.unpack(length, k_out.mutable_data(), v_out.mutable_data());
  return py::make_tuple(result(out.tensor, {queries.rows, shape.num_heads, shape.head_dim}), k_out, v_out);
}

FloatArray ragged_attention(const Place& place, const FloatArray& q, const std::vector<FloatArray>& ks,
                            const std::vector<FloatArray>& vs, const IntArray& spans, const std::string& dtype_name,
                            const std::optional<std::string>& out_dtype) {
  const DType dtype = parse_dtype(dtype_name);
  check(!ks.empty() && ks.size() == vs.size(), ErrorKind::kInvalidRequest, "expected as many K as V");
  check(spans.ndim() == 2 && spans.shape(1) == 4, ErrorKind::kInvalidRequest, "expected spans of four columns");
  const HeadShape shape = head_shape(q, ks[0]);
  const View queries = view(q, 3, "q");
  std::vector<TestSlot> slots;
  for (std::size_t i = 0; i < ks.size(); ++i) {
    const std::int64_t length = ks[i].shape(0);
    slots.emplace_back(place.memory, length, shape, dtype);
    IntArray positions(length);
    std::iota(positions.mutable_data(), positions.mutable_data() + length, 0);
    const Rounded angles = no_rotation(length, shape.head_dim);
    write(place, slots.back(), ks[i], vs[i], positions, positions, on(place, angles.tensor).tensor);
  }
  std::vector<RowSpan> row_spans;
  for (py::ssize_t i = 0; i < spans.shape(0); ++i) {
    const std::int32_t* row = spans.data(i, 0);
    const bool fits = 0 <= row[0] && row[0] <= row[1] && row[1] <= queries.rows && row[3] >= 0 &&
                      static_cast<std::size_t>(row[3]) < slots.size() && row[2] >= 1 &&
                      row[2] <= ks[static_cast<std::size_t>(row[3])].shape(0);
    check(fits, ErrorKind::kInvalidRequest, "span ", i, " does not fit the arrays");
    row_spans.push_back({row[0], row[1], row[2], slots[static_cast<std::size_t>(row[3])].kv});
  }
  const Rounded rows = rounded(queries.data, queries.rows, queries.cols, dtype);
  const Rounded out = allot(queries.rows, queries.cols, out_dtype ? parse_dtype(*out_dtype) : dtype);
  const Placed device_rows = on(place, rows.tensor), device_out = on(place, out.tensor);
  place.ops.attention(place.stream, device_rows.tensor, shape, row_spans.data(),
                      static_cast<std::int64_t>(row_spans.size()), device_out.tensor);
  device_out.fetch(place);
  return result(out.tensor, {queries.rows, shape.num_heads, shape.head_dim});
}

FloatArray attention(const Place& place, const FloatArray& q, const FloatArray& k, const FloatArray& v,
                     const IntArray& spans, const std::string& dtype, const std::optional<std::string>& out_dtype) {
  check(spans.ndim() == 2 && spans.shape(1) == 3, ErrorKind::kInvalidRequest, "expected spans of three columns");
  IntArray wide({spans.shape(0), static_cast<py::ssize_t>(4)});
  for (py::ssize_t i = 0; i < spans.shape(0); ++i) {
    std::copy_n(spans.data(i, 0), 3, wide.mutable_data(i, 0));
    *wide.mutable_data(i, 3) = 0;
  }
  return ragged_attention(place, q, {k}, {v}, wide, dtype, out_dtype);
}

}  // namespace llada
