// _core.Ops: single ops of a table on numpy arrays, for tests and benchmarks. Inputs are rounded to the compute type,
// results widened to float32.
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>

#include "bindings/convert.h"
#include "bindings/ops_attention.h"
#include "core/env.h"
#include "core/parallel.h"
#include "ops/registry.h"

namespace llada {
namespace {

class OpsHandle {
 public:
  // With repeats each op runs so many times for a call, timed.
  OpsHandle(const std::string& table, int num_threads, int repeats)
      : trace_(find_table(table), repeats),
        ops_(repeats > 0 ? timed(trace_.table()) : trace_.table()),
        pool_(num_threads > 0 ? num_threads : default_num_threads()),
        memory_(trace_.table()),
        stream_{&pool_, repeats > 0 ? &trace_ : nullptr, memory_.session()},
        place_{ops_, memory_, stream_} {}

  py::dict trace() {
    const py::dict spent = trace_dict(trace_.entries());
    trace_.clear();
    return spent;
  }

  const char* name() const { return ops_.name; }
  const Place& place() const { return place_; }

  FloatArray embed(const IntArray& tokens, const FloatArray& weight, const std::string& dtype) {
    const View w = view(weight, 2, "weight");
    for (py::ssize_t i = 0; i < tokens.size(); ++i)
      check(tokens.data()[i] >= 0 && tokens.data()[i] < w.rows, ErrorKind::kInvalidRequest, "expected token ids below ",
            w.rows, ", got ", tokens.data()[i]);
    const Rounded table = rounded(w.data, w.rows, w.cols, parse_dtype(dtype));
    FloatArray out({static_cast<py::ssize_t>(tokens.size()), static_cast<py::ssize_t>(w.cols)});
    const Placed device_table = placed(table.tensor), device_out = placed(whole(out, tokens.size(), w.cols));
    ops_.embed(stream_, tokens.data(), device_table.tensor, device_out.tensor);
    device_out.fetch(place_);
    return out;
  }

  FloatArray rms_norm(const FloatArray& x, const FloatArray& weight, float eps, const std::string& dtype) {
    const View in = view(x, 2, "x");
    const Rounded scale = widened(rounded(weight.data(), 1, weight.size(), parse_dtype(dtype)));
    const Rounded out = allot(in.rows, in.cols, parse_dtype(dtype));
    norm(in, scale.tensor, eps, out.tensor);
    return result(out.tensor, {in.rows, in.cols});
  }

  // Values and scales; compute_type: of the rows, int8 or float8.
  py::tuple rms_norm_quantized(const FloatArray& x, const FloatArray& weight, float eps,
                               const std::string& compute_type) {
    const View in = view(x, 2, "x");
    const Rounded out = allot(in.rows, in.cols, parse_compute_type(compute_type, ops_).operand);
    norm(in, whole(weight, 1, weight.size()), eps, out.tensor);
    return quantized_rows(out.tensor);
  }

  py::tuple quantize(const FloatArray& x, const std::string& compute_type) {
    const View in = view(x, 2, "x");
    return quantized_rows(operands(place_, in.data, in.rows, in.cols, parse_compute_type(compute_type, ops_)).tensor);
  }

  FloatArray keep_rows(const FloatArray& x, const IntArray& rows) {
    const View in = view(x, 2, "x");
    for (py::ssize_t i = 0; i < rows.size(); ++i)
      check(rows.data()[i] >= i && rows.data()[i] < in.rows, ErrorKind::kInvalidRequest, "expected rows[", i, "] from ",
            i, " to ", in.rows - 1, ", got ", rows.data()[i]);
    FloatArray out({static_cast<py::ssize_t>(in.rows), static_cast<py::ssize_t>(in.cols)});
    std::copy_n(in.data, x.size(), out.mutable_data());
    const Placed device_x = placed(whole(out, in.rows, in.cols));
    ops_.keep_rows(stream_, rows.data(), rows.size(), device_x.tensor);
    device_x.fetch(place_);
    return out;
  }

  FloatArray matmul(const FloatArray& x, const FloatArray& weight, const std::string& compute_type,
                    const std::optional<FloatArray>& residual) {
    const ComputeType& type = parse_compute_type(compute_type, ops_);
    const View in = view(x, 2, "x");
    const View w = view(weight, 2, "weight");
    check(in.cols == w.cols, ErrorKind::kInvalidRequest, "expected ", w.cols, " columns of x, got ", in.cols);
    const Rounded rows = operands(place_, in.data, in.rows, in.cols, type);
    const Packed packed = pack(place_, w, type);
    FloatArray out({static_cast<py::ssize_t>(in.rows), static_cast<py::ssize_t>(w.rows)});
    if (residual) {
      check(residual->size() == out.size(), ErrorKind::kInvalidRequest, "expected a residual of ", out.size(),
            " values, got ", residual->size());
      std::copy_n(residual->data(), out.size(), out.mutable_data());
    }
    const Placed device_rows = placed(rows.tensor), device_out = placed(whole(out, in.rows, w.rows));
    ops_.matmul(stream_, device_rows.tensor, packed.weight, residual.has_value(), device_out.tensor);
    device_out.fetch(place_);
    return out;
  }

  FloatArray matmul_swiglu(const FloatArray& x, const FloatArray& weight, const std::string& compute_type,
                           const std::string& out_dtype) {
    const View in = view(x, 2, "x");
    const View w = view(weight, 2, "weight");
    check(in.cols == w.cols && w.rows % 2 == 0, ErrorKind::kInvalidRequest,
          "expected an even number of outputs, and as many columns of x as of the weight");
    const ComputeType& type = parse_compute_type(compute_type, ops_);
    const Packed packed = pack(place_, w, type, /*paired=*/true);
    const Rounded rows = operands(place_, in.data, in.rows, in.cols, type);
    const Rounded out = allot(in.rows, w.rows / 2, parse_dtype(out_dtype));
    const Placed device_rows = placed(rows.tensor), device_out = placed(out.tensor);
    ops_.matmul_swiglu(stream_, device_rows.tensor, packed.weight, device_out.tensor);
    device_out.fetch(place_);
    return result(out.tensor, {in.rows, w.rows / 2});
  }

  py::dict candidates(const FloatArray& hidden, const FloatArray& head, const std::string& compute_type,
                      const std::optional<FloatArray>& guide_hidden, const SamplingRule& rule,
                      const IntArray& positions, const std::optional<IntArray>& targets,
                      const std::optional<WordArray>& allowed) {
    const ComputeType& type = parse_compute_type(compute_type, ops_);
    const View in = view(hidden, 2, "hidden");
    const View w = view(head, 2, "head");
    check(in.cols == w.cols && in.cols % 2 == 0, ErrorKind::kInvalidRequest, "expected ", w.cols,
          " columns of hidden, an even number, got ", in.cols);
    check(positions.size() == in.rows && (!targets || targets->size() == in.rows), ErrorKind::kInvalidRequest,
          "expected ", in.rows, " positions and targets");
    check(!allowed || (allowed->ndim() == 2 && allowed->shape(0) == in.rows && allowed->shape(1) == set_words(w.rows)),
          ErrorKind::kInvalidRequest, "expected a set of ", set_words(w.rows), " words for each of ", in.rows, " rows");
    const std::int64_t num_hidden = guide_hidden ? 2 * in.rows : in.rows;
    std::vector<float> all(in.data, in.data + in.rows * in.cols);
    if (guide_hidden) {
      check(guide_hidden->size() == hidden.size(), ErrorKind::kInvalidRequest, "expected guide_hidden like hidden");
      all.insert(all.end(), guide_hidden->data(), guide_hidden->data() + guide_hidden->size());
    }
    const Rounded rows = operands(place_, all.data(), num_hidden, in.cols, type);
    std::vector<CandidateRow> requests(static_cast<std::size_t>(in.rows));
    for (std::size_t r = 0; r < requests.size(); ++r) {
      requests[r].hidden_row = static_cast<std::int32_t>(r);
      requests[r].guide_row = guide_hidden ? static_cast<std::int32_t>(in.rows + static_cast<std::int64_t>(r)) : -1;
      requests[r].position = positions.data()[r];
      requests[r].target = targets ? targets->data()[r] : -1;
      requests[r].allowed = allowed ? static_cast<std::int32_t>(r) : -1;
    }
    std::vector<Candidate> out(requests.size());
    const std::int64_t most = rule.num_alternatives;
    check(most >= 0 && most <= kMostAlternatives, ErrorKind::kInvalidRequest, "expected 0 to ", kMostAlternatives,
          " alternatives, got ", most);
    std::vector<Alternative> ranked(requests.size() * static_cast<std::size_t>(most));
    const Packed packed = pack(place_, w, type);
    const Placed device_rows = placed(rows.tensor);
    ops_.candidates(stream_, device_rows.tensor, packed.weight, &rule, 1, requests.data(), in.rows,
                    allowed ? allowed->data() : nullptr, allowed ? in.rows : 0, out.data(), most, ranked.data());
    ops_.finish(stream_);
    for (std::size_t r = 0; r < out.size(); ++r)
      check(out[r].token >= 0, ErrorKind::kInternal, "expected finite logits in row ", r, ", got NaN or infinity");
    py::dict d;
    d["token"] = column<std::int32_t>(out, [](const Candidate& c) { return c.token; });
    d["other_token"] = column<std::int32_t>(out, [](const Candidate& c) { return c.other_token; });
    d["confidence"] = column<double>(out, [](const Candidate& c) { return c.confidence; });
    d["other_confidence"] = column<double>(out, [](const Candidate& c) { return c.other_confidence; });
    d["probability"] = column<double>(out, [](const Candidate& c) { return c.probability; });
    d["log_prob"] = column<double>(out, [](const Candidate& c) { return c.log_prob; });
    d["entropy"] = column<double>(out, [](const Candidate& c) { return c.entropy; });
    d["margin"] = column<double>(out, [](const Candidate& c) { return c.margin; });
    if (targets) d["target_log_prob"] = column<double>(out, [](const Candidate& c) { return c.target_log_prob; });
    if (most > 0) {
      py::array_t<std::int64_t> tokens({in.rows, most});
      py::array_t<double> log_probs({in.rows, most});
      for (std::size_t i = 0; i < ranked.size(); ++i) {
        tokens.mutable_data()[i] = ranked[i].token;
        log_probs.mutable_data()[i] = ranked[i].log_prob;
      }
      d["alternatives"] = py::make_tuple(tokens, log_probs);
    }
    return d;
  }

  using DoubleArray = py::array_t<double, py::array::c_style | py::array::forcecast>;

  py::tuple commit(const IntArray& canvas, const IntArray& positions, const IntArray& tokens,
                   const DoubleArray& confidence, std::int32_t select, std::int64_t count, double select_value,
                   std::int32_t mask_id, const std::optional<std::pair<IntArray, DoubleArray>>& alternatives,
                   double near_value, std::int64_t radius, const std::optional<DoubleArray>& entropy) {
    const std::vector<std::int32_t> before = to_vector(canvas);
    std::vector<std::int32_t> after = before;
    const std::int64_t n = positions.size();
    check(tokens.size() == n && confidence.size() == n, ErrorKind::kInvalidRequest, "expected ", n,
          " tokens and confidences");
    check(!entropy || entropy->size() == n, ErrorKind::kInvalidRequest, "expected ", n, " entropies");
    std::vector<Candidate> found(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < found.size(); ++i) {
      const std::int32_t position = positions.data()[i];
      check(position >= 0 && static_cast<std::size_t>(position) < after.size(), ErrorKind::kInvalidRequest,
            "expected positions in the canvas, got ", position);
      found[i].position = position;
      found[i].token = found[i].other_token = tokens.data()[i];
      found[i].confidence = found[i].other_confidence = confidence.data()[i];
      if (entropy) found[i].entropy = entropy->data()[i];
      if (alternatives) {
        found[i].other_token = alternatives->first.at(static_cast<py::ssize_t>(i));
        found[i].other_confidence = alternatives->second.at(static_cast<py::ssize_t>(i));
      }
    }
    const CommitGroup group{0, n, static_cast<Select>(select), count, select_value, mask_id, near_value, radius};
    std::vector<std::int64_t> chosen(found.size(), -1);
    ops_.commit(stream_, found.data(), n, &group, 1, chosen.data());
    ops_.finish(stream_);
    std::vector<std::int32_t> committed;
    for (const std::int64_t i : chosen) {
      if (i < 0) continue;
      committed.push_back(positions.data()[i]);
      after[static_cast<std::size_t>(committed.back())] = found[static_cast<std::size_t>(i)].token;
    }
    return py::make_tuple(to_array(after), to_array(committed));
  }

  py::tuple quantize_weight(const FloatArray& weight, const std::string& dtype) {
    const View w = view(weight, 2, "weight");
    const Quantized quantized(stream_, {w.data, DType::kFloat32, w.rows, w.cols},
                              parse_compute_type(dtype, ops_).weight);
    const StoredWeight stored = quantized.stored();
    const std::int64_t row = bytes_of(stored.values.dtype, w.cols);
    const std::int64_t num_groups = num_scale_groups(stored.values.dtype, w.cols);
    py::array_t<std::uint8_t> values({w.rows, row});
    std::memcpy(values.mutable_data(), stored.values.data, static_cast<std::size_t>(w.rows * row));
    FloatArray scales({w.rows, num_groups});
    std::memcpy(scales.mutable_data(), stored.scales, static_cast<std::size_t>(w.rows * num_groups * 4));
    return py::make_tuple(values, scales);
  }

  double measure_peak(const std::string& dtype) {
    const py::gil_scoped_release release;
    return ops_.measure_peak(stream_, dtype == "int8"     ? DType::kInt8
                                      : dtype == "float8" ? DType::kFloat8
                                                          : parse_dtype(dtype));
  }

 private:
  Placed placed(const Tensor& tensor) const { return {memory_, tensor}; }

  void norm(const View& in, const Tensor& weight, float eps, const Tensor& out) {
    const Placed device_x = placed({const_cast<float*>(in.data), DType::kFloat32, in.rows, in.cols});
    const Placed device_weight = placed(weight), device_out = placed(out);
    ops_.rms_norm(stream_, device_x.tensor, device_weight.tensor, eps, device_out.tensor);
    device_out.fetch(place_);
  }

  static Rounded widened(const Rounded& from) {
    Rounded out = allot(from.tensor.rows, from.tensor.cols, DType::kFloat32);
    widen(from.tensor, static_cast<float*>(out.tensor.data));
    return out;
  }

  template <class T, class Get>
  static py::array_t<T> column(const std::vector<Candidate>& from, const Get& get) {
    std::vector<T> values;
    for (const Candidate& candidate : from) values.push_back(get(candidate));
    return to_array(values);
  }

  Trace trace_;
  const Ops ops_;
  ThreadPool pool_;
  const Memory memory_;
  const Stream stream_;
  const Place place_;
};

SamplingRule sampling_rule(double guidance_scale, double temperature, std::uint64_t seed, std::int32_t step,
                           std::int32_t score, std::int32_t mask_id, bool propose_mask, std::int32_t suppressed_token,
                           std::int32_t unconfident_token_0, std::int32_t unconfident_token_1,
                           std::int32_t num_alternatives) {
  SamplingRule rule;
  rule.guidance_scale = guidance_scale;
  rule.temperature = temperature;
  rule.seed = seed;
  rule.step = step;
  rule.score = static_cast<Score>(score);
  rule.mask_id = mask_id;
  rule.propose_mask = propose_mask ? 1 : 0;
  rule.suppressed_token = suppressed_token;
  rule.unconfident_tokens[0] = unconfident_token_0;
  rule.unconfident_tokens[1] = unconfident_token_1;
  rule.num_alternatives = num_alternatives;
  return rule;
}

// A method of the handle, of an op that is a function of where it runs.
template <class Result, class... Arguments>
auto at_place(Result (*op)(const Place&, Arguments...)) {
  return [op](OpsHandle& ops, Arguments... arguments) { return op(ops.place(), arguments...); };
}

}  // namespace

void bind_ops(py::module_& module) {
  using namespace py::literals;
  py::class_<OpsHandle>(module, "Ops")
      .def(py::init<const std::string&, int, int>(), "table"_a, "num_threads"_a = 0, "repeats"_a = 0)
      .def("trace", &OpsHandle::trace, "op -> (calls, wall and CPU nanoseconds) since the last call of this")
      .def_property_readonly("name", &OpsHandle::name)
      .def("embed", &OpsHandle::embed, "tokens"_a, "weight"_a, "dtype"_a)
      .def("rms_norm", &OpsHandle::rms_norm, "x"_a, "weight"_a, "eps"_a, "dtype"_a)
      .def("rms_norm_quantized", &OpsHandle::rms_norm_quantized, "x"_a, "weight"_a, "eps"_a, "compute_type"_a = "int8")
      .def("quantize", &OpsHandle::quantize, "x"_a, "compute_type"_a = "int8")
      .def("keep_rows", &OpsHandle::keep_rows, "x"_a, "rows"_a)
      .def("quantize_weight", &OpsHandle::quantize_weight, "weight"_a, "dtype"_a)
      .def("matmul", &OpsHandle::matmul, "x"_a, "weight"_a, "compute_type"_a, "residual"_a = py::none())
      .def("rope_kv_write", at_place(rope_kv_write), "q"_a, "k"_a, "v"_a, "positions"_a, "length"_a, "theta"_a,
           "dtype"_a, "places"_a = py::none())
      .def("attention", at_place(attention), "q"_a, "k"_a, "v"_a, "spans"_a, "dtype"_a, "out_dtype"_a = py::none())
      .def("ragged_attention", at_place(ragged_attention), "q"_a, "ks"_a, "vs"_a, "spans"_a, "dtype"_a,
           "out_dtype"_a = py::none())
      .def("matmul_swiglu", &OpsHandle::matmul_swiglu, "x"_a, "weight"_a, "compute_type"_a, "out_dtype"_a)
      .def(
          "candidates",
          [](OpsHandle& ops, const FloatArray& hidden, const FloatArray& head, const std::string& compute_type,
             const std::optional<FloatArray>& guide_hidden, double guidance_scale, double temperature,
             std::uint64_t seed, std::int32_t step, const IntArray& positions, std::int32_t score, std::int32_t mask_id,
             bool propose_mask, std::int32_t suppressed_token, std::int32_t unconfident_token_0,
             std::int32_t unconfident_token_1, const std::optional<IntArray>& targets, std::int32_t num_alternatives,
             const std::optional<WordArray>& allowed) {
            const SamplingRule rule =
                sampling_rule(guidance_scale, temperature, seed, step, score, mask_id, propose_mask, suppressed_token,
                              unconfident_token_0, unconfident_token_1, num_alternatives);
            return ops.candidates(hidden, head, compute_type, guide_hidden, rule, positions, targets, allowed);
          },
          "hidden"_a, "head"_a, "compute_type"_a, py::kw_only(), "guide_hidden"_a = py::none(),
          "guidance_scale"_a = 0.0, "temperature"_a = 0.0, "seed"_a = 0, "step"_a = 0, "positions"_a, "score"_a = 0,
          "mask_id"_a = -1, "propose_mask"_a = true, "suppressed_token"_a = -1, "unconfident_token_0"_a = -1,
          "unconfident_token_1"_a = -1, "targets"_a = py::none(), "num_alternatives"_a = 0, "allowed"_a = py::none())
      .def("commit", &OpsHandle::commit, "canvas"_a, "positions"_a, "tokens"_a, "confidence"_a, "select"_a, "count"_a,
           "select_value"_a, "mask_id"_a, "alternatives"_a = py::none(), "near_value"_a = 0.0, "radius"_a = 0,
           "entropy"_a = py::none())
      .def("measure_peak", &OpsHandle::measure_peak, "dtype"_a);
  module.def(
      "measure_peak",
      [](const std::string& dtype, int num_threads) { return OpsHandle("", num_threads, 0).measure_peak(dtype); },
      "kind"_a, "num_threads"_a = 0, "GFLOP/s of the best table's multiply-add on registers.");
}

}  // namespace llada
