// Weights from the order of a checkpoint to the device: rows are rounded and padded by the processor's threads into one
// pinned buffer while the other one is on its way.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/check.h"
#include "core/parallel.h"
#include "cuda/device/session.h"
#include "cuda/kernels.h"
#include "cuda/pack.h"

namespace llada::cuda {
namespace {

constexpr std::int64_t kPieceBytes = std::int64_t{8} << 20;
constexpr std::int64_t kGroup = 32;  // inputs that share a scale of int4
constexpr std::int64_t kEight = 8;   // rows of either matrix of a pair that lie together

std::int64_t rounded_up(std::int64_t count, std::int64_t unit) { return (count + unit - 1) / unit * unit; }

// Row of the stored matrix that a packed row holds, or -1 for padding.
std::int64_t stored_row(const PackedWeight& form, std::int64_t row) {
  if (!form.paired) return row;
  const std::int64_t half = form.num_out / 2, of_half = row / (2 * kEight) * kEight + row % kEight;
  if (of_half >= half) return -1;
  return row / kEight % 2 == 0 ? of_half : half + of_half;
}

// By memcpy throughout: a checkpoint file promises no alignment.
float float_at(const ConstTensor& t, std::int64_t index) {
  const char* at = static_cast<const char*>(t.data) + index * size_of(t.dtype);
  if (t.dtype == DType::kFloat32) {
    float value;
    std::memcpy(&value, at, 4);
    return value;
  }
  std::uint16_t half;
  std::memcpy(&half, at, 2);
  return t.dtype == DType::kBFloat16 ? bf16_to_float(half) : f16_to_float(half);
}

bool is_finite(float value) { return (bits_of(value) & 0x7f800000u) != 0x7f800000u; }

// Row of floats rounded to `dtype`. False if a value is not finite, as it is or rounded.
bool round_row(const ConstTensor& from, std::int64_t row, DType dtype, char* out) {
  bool finite = true;
  for (std::int64_t k = 0; k < from.cols; ++k) {
    float value = float_at(from, row * from.cols + k);
    if (dtype == DType::kFloat32) {
      std::memcpy(out + 4 * k, &value, 4);
    } else {
      const std::uint16_t half = float_to_bf16(value);
      std::memcpy(out + 2 * k, &half, 2);
      value = bf16_to_float(half);
    }
    finite &= is_finite(value);
  }
  return finite;
}

// What most of a load is: a row that has its type already. False if an exponent is all ones.
bool copy_bf16_row(const ConstTensor& from, std::int64_t row, char* out) {
  std::memcpy(out, static_cast<const char*>(from.data) + 2 * row * from.cols, static_cast<std::size_t>(2 * from.cols));
  unsigned bad = 0;
  for (std::int64_t k = 0; k < from.cols; ++k) {
    std::uint16_t half;
    std::memcpy(&half, out + 2 * k, 2);
    bad |= (half & 0x7f80u) == 0x7f80u;
  }
  return bad == 0;
}

bool fill_values(const StoredWeight& weight, const PackedWeight& form, std::int64_t row, std::int64_t row_bytes,
                 char* out) {
  const ConstTensor& from = weight.values;
  const std::int64_t stored = stored_row(form, row), used = bytes_of(form.dtype, form.num_in);
  if (stored < 0) {
    std::memset(out, 0, static_cast<std::size_t>(row_bytes));
    return true;
  }
  std::memset(out + used, 0, static_cast<std::size_t>(row_bytes - used));
  if (!is_float(form.dtype)) {
    std::memcpy(out, static_cast<const char*>(from.data) + stored * used, static_cast<std::size_t>(used));
    return true;
  }
  if (form.dtype == DType::kBFloat16 && from.dtype == DType::kBFloat16) return copy_bf16_row(from, stored, out);
  return round_row(from, stored, form.dtype, out);
}

void fill_scales(const StoredWeight& weight, const PackedWeight& form, std::int64_t row, std::int64_t scale_step,
                 char* out) {
  std::memset(out, 0, static_cast<std::size_t>(4 * scale_step));
  const std::int64_t stored = stored_row(form, row);
  const std::int64_t count = form.dtype == DType::kInt4 ? (form.num_in + kGroup - 1) / kGroup : 1;
  if (stored < 0) return;
  std::memcpy(out, static_cast<const char*>(weight.scales) + 4 * stored * count, static_cast<std::size_t>(4 * count));
}

struct Pinned {
  explicit Pinned(std::int64_t num_bytes) : data(static_cast<char*>(allocate_pinned(num_bytes))) {
    check(data != nullptr, ErrorKind::kOutOfMemory, "could not allocate ", num_bytes, " bytes of pinned host memory");
  }
  ~Pinned() { release_pinned(data); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;

  char* const data;
};

// Sends `num_rows` rows that fill(row, where) writes, in pieces. The wait before a copy is for the copy before it: the
// buffer that is filled next is free then, and the other one is under way meanwhile.
template <class Fill>
void send_rows(const Stream& stream, std::int64_t num_rows, std::int64_t row_bytes, char* to, const Fill& fill) {
  if (num_rows == 0) return;
  const Session& session = session_of(stream);
  const std::int64_t rows_at_once = std::min(num_rows, std::max<std::int64_t>(1, kPieceBytes / row_bytes));
  const Pinned first(rows_at_once * row_bytes), second(rows_at_once < num_rows ? rows_at_once * row_bytes : 1);
  char* const buffers[2] = {first.data, second.data};
  for (std::int64_t begin = 0, turn = 0; begin < num_rows; begin += rows_at_once, ++turn) {
    const std::int64_t count = std::min(rows_at_once, num_rows - begin);
    char* const buffer = buffers[turn % 2];
    parallel_for(*stream.pool, count, [&](std::int64_t i, int) { fill(begin + i, buffer + i * row_bytes); });
    wait_for(session.stream());
    copy_to_device(to + begin * row_bytes, buffer, count * row_bytes, session.stream());
  }
  wait_for(session.stream());
}

}  // namespace

PackedLayout layout_of(const PackedWeight& form) {
  PackedLayout layout{};
  layout.num_rows = form.paired ? 2 * rounded_up(form.num_out / 2, kEight) : form.num_out;
  layout.row_bytes = rounded_up(bytes_of(form.dtype, form.num_in), 16);
  layout.scales_at = layout.num_rows * layout.row_bytes;
  if (form.dtype == DType::kInt4)
    layout.scale_step = rounded_up((form.num_in + kGroup - 1) / kGroup, 4);
  else
    layout.scale_step = is_float(form.dtype) ? 0 : 1;
  layout.num_bytes = layout.scales_at + 4 * layout.num_rows * layout.scale_step;
  return layout;
}

std::int64_t packed_bytes(const PackedWeight& form) { return layout_of(form).num_bytes; }

bool pack(Stream stream, const StoredWeight& weight, const PackedWeight& form, void* packed) {
  const PackedLayout layout = layout_of(form);
  char* const to = static_cast<char*>(packed);
  set_device(session_of(stream).facts().index);
  std::atomic<bool> finite{true};
  send_rows(stream, layout.num_rows, layout.row_bytes, to, [&](std::int64_t row, char* out) {
    if (!fill_values(weight, form, row, layout.row_bytes, out)) finite.store(false, std::memory_order_relaxed);
  });
  if (layout.scale_step > 0)
    send_rows(stream, layout.num_rows, 4 * layout.scale_step, to + layout.scales_at,
              [&](std::int64_t row, char* out) { fill_scales(weight, form, row, layout.scale_step, out); });
  return finite.load();
}

// Scales lie behind all rows, so of integers none can be taken alone.
std::int64_t packed_row_bytes(const PackedWeight& form) {
  return is_float(form.dtype) && !form.paired ? layout_of(form).row_bytes : 0;
}

}  // namespace llada::cuda
