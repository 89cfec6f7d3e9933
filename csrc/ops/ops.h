// THE PAGE: every operation that a backend carries out, with its shapes and its precision. A backend is one table of
// these pointers. All arrays are row-major with a contiguous last dimension; inputs first, then scalars, outputs last.
//
// Precision. T is float32 or bfloat16: the type of K, V and the embedding. The residual stream and all matmuls are
// float32; what enters a matmul or the K/V slot is rounded to T once, or quantised to int8 rows. Sums over a row have
// a fixed order that depends neither on the number of rows nor on the number of threads, so a request gets the same
// bits alone and in a batch.
//
// Int8 rows. A row of kInt8 is x[i] = (byte[i] - 128) * scale: one byte for each element, up to three bytes of any
// value to end with a whole pack of 4, then the scale, float32: max |x| / 127. Bytes are round(x * (127 / max |x|)) +
// 128, ties to even. A row below 2^-100 has scale 0; one that is not finite has scale NaN, and so has what comes of it.
//
// Float8 rows (only where a table multiplies them) are e4m3 of x * (448 / max |x|), a byte for each element, zeros up
// to a multiple of 16 bytes, 12 bytes of any value, then the scale, float32: max |x| / 448; tiny rows and rows that are
// not finite as of int8.
//
// Memory. A table with a device computes in the memory of that device: tensors, packed weights and slots are there.
// Arrays of plain structs and integers (tokens, positions, spans, rules, rows, groups, candidates, chosen) are the
// caller's; they are read during the call, and results in them are there when `finish` has returned.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace llada {

class ThreadPool;
class Trace;

// Where an op runs. The CPU tables need the pool; it also lends each worker its scratch memory. The trace is there
// while somebody wants to know where the time goes (ops/trace.h). The session is that of the table's device.
struct Stream {
  ThreadPool* pool = nullptr;
  Trace* trace = nullptr;
  void* session = nullptr;
};

// What a session has done since it was opened.
struct DeviceCounts {
  std::int64_t finishes = 0;  // lists of work, one for a step
  std::int64_t captures = 0;  // lists that were recorded as graphs
  std::int64_t replays = 0;   // lists that were replayed as graphs
};

// A machine beside the processor, with memory of its own. A session is what the ops of one engine share there: a
// stream, the work that waits for `finish`, graphs of steps. One thread at a time. Errors throw DeviceError, or
// OutOfMemoryError with the numbers.
struct Device {
  // stream: a handle of the device's runtime that all work goes to; nullptr: one of its own.
  void* (*open)(int index, void* stream);
  void (*close)(void* session);
  void* (*allocate)(void* session, std::int64_t num_bytes);  // aligned to 256 bytes
  // Takes effect when no waiting work can touch the memory any more.
  void (*release)(void* session, void* memory);
  // These have happened when they return, after all work before them.
  void (*upload)(void* session, const void* host, std::int64_t num_bytes, void* memory);
  void (*download)(void* session, const void* memory, std::int64_t num_bytes, void* host);
  void (*clear)(void* session, void* memory, std::int64_t num_bytes);  // to zeros
  void (*copy)(void* session, const void* from, std::int64_t num_bytes, void* to);
  // Drops the work that waits for `finish`: a step that ends by an exception.
  void (*discard)(void* session);
  std::int64_t (*free_bytes)(void* session);
  DeviceCounts (*counts)(void* session);
};

// A weight matrix as a checkpoint has it: float32, bfloat16 or float16, or quantised (model/quantization.h).
struct StoredWeight {
  ConstTensor values;            // (num_out, num_in)
  const void* scales = nullptr;  // float32; int8: (num_out), int4: (num_out, num_in / 32 rounded up)
};

// A weight matrix (num_out, num_in) in the order its table reads it: panels of 64 outputs, padded with zeros. A panel
// is
//   float32, bfloat16  [num_in / pack][64][pack], pack = 4 bytes (1 float32, 2 bfloat16)
//   int8               [num_in / 4][64][4], then 64 scales, float32, and 128 times the sum of each output, int32
//   int4               [num_in / 32] groups: 64 scales, float32, then [16][64] bytes of two values
// Rows of T that it meets end with a whole pack: where num_in is odd they have one column more, of zeros.
// Rows of T meet weights of T, int8 or int4; rows of int8 meet weights of int8.
struct PackedWeight {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  std::int64_t num_out = 0;
  std::int64_t num_in = 0;
  bool paired = false;  // two matrices of num_out / 2 rows, one after the other; a panel has 32 outputs of each
};

// K and V of one layer of one slot, in T. `capacity` (positions) is a multiple of 64.
//   k: [num_kv_heads][capacity / 16][head_dim / pack][16][pack]     keys are the lanes of q k^T
//   v: [num_kv_heads][capacity / pack][v_stride][pack]              head dimensions are the lanes of p v
// v_stride is head_dim rounded up to a multiple of 16. A table with a device has [num_kv_heads][capacity][head_dim] for
// both, in the same number of bytes or less.
struct KvView {
  void* k = nullptr;
  void* v = nullptr;
  std::int64_t capacity = 0;
};

struct HeadShape {
  std::int64_t num_heads = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t head_dim = 0;  // a multiple of 8
};

// Rows [row_begin, row_end) of the batch belong to one sequence; they see keys [0, visible) of its slot.
struct RowSpan {
  std::int64_t row_begin = 0;
  std::int64_t row_end = 0;
  std::int64_t visible = 0;
  KvView kv;
};

enum class Score : std::int32_t { kLowConfidence = 0, kRandom = 1, kMargin = 2, kEntropy = 3 };
constexpr const char* kScoreNames[] = {"low_confidence", "random", "margin", "entropy"};

constexpr std::int32_t kMostAlternatives = 20;

// How one request turns logits into a candidate and its confidence. Token ids of -1 mean "none". The fields but `step`
// are those of SamplingRule in llada_rt/planning/plan.py, in this order; no byte between them is open.
struct SamplingRule {
  std::int32_t mask_id = -1;
  Score score = Score::kLowConfidence;
  double temperature = 0;     // 0: argmax; else argmax of logit - temperature * ln(-ln u), u keyed by the counter
  double guidance_scale = 0;  // w: logits = u + (w + 1) (c - u) where a row has a guide
  std::uint64_t seed = 0;
  std::int32_t suppressed_token = -1;             // its logit is -inf
  std::int32_t unconfident_tokens[2] = {-1, -1};  // left out of the softmax once the candidate is chosen
  std::int32_t propose_mask = 1;                  // 0: the mask id is never a candidate (it stays in the softmax)
  std::int32_t num_alternatives = 0;              // of the softmax, the most probable ones: 0 to kMostAlternatives
  std::int32_t step = 0;                          // forwards that the request has run: part of the noise counter
};

struct CandidateRow {
  std::int32_t hidden_row = 0;
  std::int32_t guide_row = -1;  // row of the unconditional logits
  std::int32_t position = 0;
  std::int32_t rule = 0;     // index into the rules
  std::int32_t target = -1;  // token whose log-probability is wanted
  // Index of the set of tokens that may be the candidate; -1: each may. The mask id is in no set.
  std::int32_t allowed = -1;
};

// Words of a set of tokens.
constexpr std::int64_t set_words(std::int64_t vocab_size) { return (vocab_size + 31) / 32; }

struct Candidate {
  std::int32_t token = -1;        // -1: the row's logits are not finite, and nothing else here means anything
  std::int32_t other_token = -1;  // the candidate if the mask id may not win; equals token unless token is the mask id
  std::int64_t position = 0;      // of its row
  double confidence = 0;          // of token, by the rule's score; larger is better
  double other_confidence = 0;
  double probability = 0;     // softmax probability of token, without noise
  double log_prob = 0;        // ln of it; of a token left out of the softmax, as if it were not
  double other_log_prob = 0;  // of other_token
  double entropy = 0;         // of the softmax, nats
  double margin = 0;          // largest minus second largest probability
  double target_log_prob = 0;
};

// One of the most probable tokens of a row. Wide, so that no byte of it is left open.
struct Alternative {
  std::int64_t token = -1;  // -1: the row has no more tokens in its softmax, or no finite logits
  double log_prob = 0;      // as of a candidate
};

// How candidates are selected. kPropose is for plans; no group has it.
enum class Select : std::int32_t {
  kTopK = 0,
  kThreshold = 1,
  kFactor = 2,
  kFrechet = 3,
  kLocalLeap = 4,
  kEntropyBound = 5,
  kPropose = 6
};
constexpr const char* kSelectNames[] = {"top_k",      "threshold",     "factor", "frechet",
                                        "local_leap", "entropy_bound", "propose"};

// One sequence's share of a commit: candidates [begin, end), at ascending positions.
struct CommitGroup {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  Select select = Select::kTopK;
  std::int64_t count = 0;  // kTopK: so many; the others: at least so many, and at least one
  double value = 0;        // kThreshold: tau, kFactor: f, kFrechet: delta, kLocalLeap: kappa, kEntropyBound: gamma
  std::int32_t mask_id = -1;
  double near_value = 0;    // kLocalLeap: tau
  std::int64_t radius = 0;  // kLocalLeap: how far a position near another one is at most
};

struct Ops {
  const char* name;  // "avx512bf16"

  const Device* device;  // nullptr: the processor, everything has happened when a call returns
  // Numbers of rows that change from step to step are rounded up to a multiple of this, so that steps have few shapes.
  std::int64_t row_bucket;

  // Whether matmul takes rows of that dtype with weights of that dtype.
  bool (*multiplies)(DType rows, DType weight);

  // Bytes of, and copy into, the packed `form` of a weight (its data is not read). Floats are rounded to the form's
  // dtype, quantised values must have it. False if a value is not finite. packed: 64-byte aligned.
  std::int64_t (*packed_bytes)(const PackedWeight& form);
  bool (*pack)(Stream, const StoredWeight& weight, const PackedWeight& form, void* packed);

  // Bytes from row to row of a packed form whose rows can be taken alone: some of them, one after the other, are a
  // packed weight too. 0 where they can't be.
  std::int64_t (*packed_row_bytes)(const PackedWeight& form);

  // out[r] = table[tokens[r]].  tokens: (out.rows); table: (vocabulary, d_model) in T; out: (num_rows, d_model)
  // float32.
  void (*embed)(Stream, const std::int32_t* tokens, ConstTensor table, Tensor out);

  // out[r] = round(x[r] * rsqrt(mean(x[r]^2) + eps)) * weight: rounds to T before the weight is applied, as the
  // published model does, and not at all before it quantises. x: (num_rows, d_model) float32; weight: (1, d_model)
  // float32, values of T; out: like x, in T, int8 or float8.
  void (*rms_norm)(Stream, ConstTensor x, ConstTensor weight, float eps, Tensor out);

  // x[i] = x[rows[i]] for ascending i, in place.  rows: (num_kept), rows[i] >= i.
  void (*keep_rows)(Stream, const std::int32_t* rows, std::int64_t num_kept, Tensor x);

  // x: (num_rows, cols) float32; out: like x, int8 or float8.
  void (*quantize)(Stream, ConstTensor x, Tensor out);

  // out = x weight^T, or out += x weight^T.  x: (num_rows, num_in) in T, int8 or float8; out: (num_rows, num_out)
  // float32.
  // An int4 weight counts as value * scale rounded to bfloat16, everything else as it is.
  void (*matmul)(Stream, ConstTensor x, const PackedWeight& weight, bool accumulate, Tensor out);

  // out = silu(x gate^T) * (x up^T).  weight: paired, gate first; out: (num_rows, num_out / 2 or more) in T or float32,
  // further columns become zeros.
  void (*matmul_swiglu)(Stream, ConstTensor x, const PackedWeight& weight, Tensor out);

  // Half-split rotation (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin) of each head in float32, rounded to T.
  // x: (num_rows, num_heads * head_dim) float32; angles: cos and sin, (max_positions, head_dim), halves [cos | sin];
  // positions: (num_rows); out: (num_rows, num_heads * head_dim) in T.
  void (*rope)(Stream, ConstTensor x, ConstTensor angles, const std::int32_t* positions, std::int64_t head_dim,
               Tensor out);

  // Rotates K, rounds K and V to T and writes both into the slots.  kv: (num_rows, 2 * num_kv_heads * head_dim)
  // float32, K first; spans say whose rows these are, places (num_rows) where in the slot they go. A row's place is
  // its position, but where a canvas leaves positions out.
  void (*rope_kv_write)(Stream, ConstTensor kv, ConstTensor angles, const std::int32_t* positions,
                        const std::int32_t* places, HeadShape, DType dtype, const RowSpan* spans,
                        std::int64_t num_spans);

  // rope and rope_kv_write of what one matmul gave, in one pass; nullptr in tables that gain nothing by it.
  // kvq: (num_rows, (2 * num_kv_heads + num_heads) * head_dim) float32, K, V, Q; out: Q as of rope.
  void (*rope_kvq)(Stream, ConstTensor kvq, ConstTensor angles, const std::int32_t* positions,
                   const std::int32_t* places, HeadShape, const RowSpan* spans, std::int64_t num_spans, Tensor out);

  // out = softmax(q k^T / sqrt(head_dim)) v over the visible keys of each span; online softmax over tiles of 64 keys,
  // statistics float32. visible >= 1.  q: (num_rows, num_heads * head_dim) in T; out: like q, in T or float32.
  void (*attention)(Stream, ConstTensor q, HeadShape, const RowSpan* spans, std::int64_t num_spans, Tensor out);

  // Candidate and confidence of each row in one pass over vocabulary tiles; logits are not stored beyond a tile.
  // hidden: (num_hidden, d_model) in T, int8 or float8; head: (vocabulary, d_model); rules: (num_rules); rows, out:
  // (num_rows). Ties: the lower token id wins. A row whose logits are not finite gets token -1.
  // alternatives: (num_rows, most), of each row as many entries as its rule asks for, most probable first; what the
  // others are is open. `most`: what the rules ask for at most; 0: nobody asks, and there is no such array.
  // allowed: (num_sets, set_words(vocabulary)), token t is bit t % 32 of word t / 32. A set narrows the choice of the
  // candidate and nothing else: confidence, log-probabilities and alternatives are of the whole softmax. A row whose
  // set holds no token that may be chosen gets token -1.
  void (*candidates)(Stream, ConstTensor hidden, const PackedWeight& head, const SamplingRule* rules,
                     std::int64_t num_rules, const CandidateRow* rows, std::int64_t num_rows,
                     const std::uint32_t* allowed, std::int64_t num_sets, Candidate* out, std::int64_t most,
                     Alternative* alternatives);

  // Chooses the candidates of each group that are to be committed: highest confidence first, then lower position.
  // kTopK: `count` of them. kThreshold: all with confidence >= value. kFactor: the largest n with
  // (n + 1) (1 - c_n) < value. kFrechet: the largest n with c_1 + ... + c_n - (n - 1) - (1 - c_n) > value. kLocalLeap:
  // all with confidence >= value (anchors), and all with confidence >= near_value at most `radius` positions from an
  // anchor; these before the rest. kEntropyBound: the largest n whose entropies, less the largest of them, sum up to
  // <= value. All but kTopK choose the best `count` in any case, and at least one token that is not the mask id
  // (other_token if they must). A group with a candidate of token -1 chooses none. candidates, chosen:
  // (num_candidates), the groups' ranges one after the other; chosen are candidate indices in that order, -1 after the
  // last one of a group; a choice of other_token rewrites its candidate.
  void (*commit)(Stream, Candidate* candidates, std::int64_t num_candidates, const CommitGroup* groups,
                 std::int64_t num_groups, std::int64_t* chosen);

  // Carries out what waits, and returns when it is done.
  void (*finish)(Stream);

  // The arithmetic roof: GFLOP/s of the multiply-adds of matmul's inner kernel for rows of `dtype` (float32, bfloat16,
  // int8) on operands in the nearest cache, best of short bursts, all threads of the stream.
  double (*measure_peak)(Stream, DType dtype);
};

}  // namespace llada
