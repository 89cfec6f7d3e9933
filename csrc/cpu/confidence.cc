// From hidden rows to candidates in one pass over the vocabulary: a tile of 64 logits per row, then gone. The
// vocabulary is cut into fixed chunks, each reduced by one worker; the chunks are merged in order, so threads don't
// change the result.
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "core/random.h"
#include "cpu/kernels.h"
#include "cpu/simd/panel.h"

namespace llada::cpu::LLADA_TABLE {
namespace {

constexpr std::int64_t kChunkPanels = 8;
constexpr float kNone = -std::numeric_limits<float>::infinity();

// What is known of a row after part of its vocabulary. `best` is over tokens other than the mask id; scores are logits,
// or noised logits where there is a temperature.
struct RowState {
  double sum = 0;       // of exp(logit - largest) over the softmax
  double weighted = 0;  // of exp(logit - largest) (logit - largest)
  double best_score = -std::numeric_limits<double>::infinity();
  double mask_score = -std::numeric_limits<double>::infinity();
  float largest = kNone;  // over the softmax
  float second = kNone;
  float best_logit = kNone;
  float mask_logit = kNone;
  float target_logit = kNone;
  std::int32_t best_token = -1;
  bool finite = true;
};

// Raises the reference point of the sums.
LLADA_INLINE void rescale(RowState& state, float largest) {
  if (!(largest > state.largest)) return;
  if (state.sum > 0) {
    const double shift = static_cast<double>(state.largest) - static_cast<double>(largest);
    const double factor = std::exp(shift);
    state.weighted = factor * (state.weighted + shift * state.sum);
    state.sum *= factor;
  }
  state.largest = largest;
}

LLADA_INLINE void push_largest(RowState& state, float a, float b) {  // a >= b: the two largest of some tokens
  if (a > state.largest) {
    state.second = b > state.largest ? b : state.largest;
    rescale(state, a);
  } else if (a > state.second) {
    state.second = a;
  }
}

LLADA_INLINE bool unconfident(const SamplingRule& rule, std::int32_t token) {
  return token == rule.unconfident_token[0] || token == rule.unconfident_token[1];
}

// One token at a time: tiles with special tokens, the last tile, and rows with noise.
void fold_slowly(RowState& state, const SamplingRule& rule, const CandidateRow& row, const float* logits,
                 std::int32_t first, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int32_t token = first + static_cast<std::int32_t>(i);
    const float logit = logits[i];
    if (!(std::fabs(logit) <= std::numeric_limits<float>::max())) state.finite = false;
    if (token == row.target) state.target_logit = logit;
    if (token == rule.suppressed_token) continue;
    double score = static_cast<double>(logit);
    if (rule.temperature > 0) {
      const double u = uniform(rule.seed, token, row.position, rule.step, kGumbelStream);
      score -= rule.temperature * std::log(-std::log(u));
    }
    if (token == rule.mask_id) {
      state.mask_score = score;
      state.mask_logit = logit;
    } else if (score > state.best_score) {
      state.best_score = score;
      state.best_logit = logit;
      state.best_token = token;
    }
    if (unconfident(rule, token)) continue;
    push_largest(state, logit, kNone);
    const double d = static_cast<double>(logit) - static_cast<double>(state.largest);
    const double e = std::exp(d);
    state.sum += e;
    state.weighted += e * d;
  }
}

// A full tile of ordinary tokens without noise.
LLADA_INLINE void fold_fast(RowState& state, const float* logits, std::int32_t first) {
  F32 top = set1(kNone), next = set1(kNone);
  F32 poison = zero();
  for (std::int64_t i = 0; i < kPanel; i += kLanes) {
    const F32 v = load(logits + i);
    poison = poison + (v - v);  // infinity minus infinity is a NaN too
    next = max(next, min(top, v));
    top = max(top, v);
  }
  state.finite = state.finite && !any_nan(poison);
  const float a = max_of(top);
  if (a > state.second) {
    // The second largest is another lane's first or the same lane's second.
    float firsts[kLanes], seconds[kLanes];
    store(firsts, top);
    store(seconds, next);
    float b = kNone;
    bool seen = false;
    for (int lane = 0; lane < kLanes; ++lane) {
      if (firsts[lane] == a && !seen) {
        seen = true;
        b = seconds[lane] > b ? seconds[lane] : b;
      } else {
        b = firsts[lane] > b ? firsts[lane] : b;
      }
    }
    push_largest(state, a, b);
  }
  if (static_cast<double>(a) > state.best_score) {
    std::int32_t i = 0;
    while (logits[i] != a && i < kPanel - 1) ++i;
    state.best_score = static_cast<double>(a);
    state.best_logit = a;
    state.best_token = first + i;
  }
  const F32 largest = set1(state.largest);
  constexpr int kHalf = kLanes / 2;
  double total[kHalf] = {};  // the small terms beside a 1 need more than float32
  F32 weighted = zero();
  for (std::int64_t i = 0; i < kPanel; i += kLanes) {
    const F32 d = load(logits + i) - largest;
    const F32 e = exp(d);
    float lanes[kLanes];
    store(lanes, e);
    for (int lane = 0; lane < kHalf; ++lane)
      total[lane] += static_cast<double>(lanes[lane]) + static_cast<double>(lanes[lane + kHalf]);
    weighted = fma(e, max(d, set1(-100.0f)), weighted);
  }
  for (int half = kHalf / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) total[lane] += total[lane + half];
  state.sum += total[0];
  state.weighted += static_cast<double>(sum(weighted));
}

LLADA_INLINE void merge(RowState& into, const RowState& next) {
  if (next.largest > into.largest) {
    into.second = next.second > into.largest ? next.second : into.largest;
  } else {
    into.second = into.second > next.largest ? into.second : next.largest;
  }
  RowState part = next;
  const float largest = into.largest > next.largest ? into.largest : next.largest;
  rescale(into, largest);
  rescale(part, largest);
  into.sum += part.sum;
  into.weighted += part.weighted;
  if (next.best_score > into.best_score) {
    into.best_score = next.best_score;
    into.best_logit = next.best_logit;
    into.best_token = next.best_token;
  }
  if (next.mask_score > into.mask_score) {
    into.mask_score = next.mask_score;
    into.mask_logit = next.mask_logit;
  }
  if (next.target_logit > into.target_logit) into.target_logit = next.target_logit;
  into.finite = into.finite && next.finite;
}

double confidence_of(const RowState& state, const SamplingRule& rule, const CandidateRow& row, std::int32_t token,
                     float logit, const Candidate& shared, double& probability) {
  const double p = std::exp(static_cast<double>(logit) - static_cast<double>(state.largest)) / state.sum;
  probability = unconfident(rule, token) ? 0.0 : p;
  switch (rule.score) {
    case Score::kRandom:
      return uniform(rule.seed, 0, row.position, rule.step, kConfidenceStream);
    case Score::kMargin:
      return shared.margin;
    case Score::kEntropy:
      return -shared.entropy;
    case Score::kLowConfidence:
      break;
  }
  return probability;
}

Candidate finish(const RowState& state, const SamplingRule& rule, const CandidateRow& row) {
  Candidate out;
  const double largest = static_cast<double>(state.largest);
  const double log_sum = std::log(state.sum);
  const double entropy = log_sum - state.weighted / state.sum;
  out.entropy = entropy > 0 ? entropy : 0;
  out.margin = (1.0 - std::exp(static_cast<double>(state.second) - largest)) / state.sum;
  if (row.target >= 0) out.target_log_prob = static_cast<double>(state.target_logit) - largest - log_sum;
  double other_probability = 0;
  out.other_token = state.best_token;
  out.other_confidence = confidence_of(state, rule, row, state.best_token, state.best_logit, out, other_probability);
  // On equal scores the lower token id wins.
  const bool mask_wins =
      rule.propose_mask && (state.mask_score > state.best_score ||
                            (state.mask_score == state.best_score && rule.mask_id < state.best_token));
  out.token = mask_wins ? rule.mask_id : state.best_token;
  const float logit = mask_wins ? state.mask_logit : state.best_logit;
  out.confidence = confidence_of(state, rule, row, out.token, logit, out, out.probability);
  // A token that was left out of the softmax counts for itself.
  const auto log_prob = [&](std::int32_t token, float of) {
    const double d = static_cast<double>(of) - largest;
    return d - (unconfident(rule, token) ? std::log(state.sum + std::exp(d)) : log_sum);
  };
  out.log_prob = log_prob(out.token, logit);
  out.other_log_prob = log_prob(out.other_token, state.best_logit);
  return out;
}

LLADA_INLINE bool ordinary(const SamplingRule& rule, const CandidateRow& row, std::int32_t first) {
  const auto outside = [&](std::int32_t token) { return token < first || token >= first + kPanel; };
  return !(rule.temperature > 0) && outside(rule.mask_id) && outside(rule.suppressed_token) &&
         outside(rule.unconfident_token[0]) && outside(rule.unconfident_token[1]) && outside(row.target);
}

}  // namespace

std::int64_t candidates(Stream stream, ConstTensor hidden, const PackedWeight& head, const SamplingRule* rules,
                        const CandidateRow* rows, std::int64_t num_rows, Candidate* out) {
  if (num_rows == 0) return 0;
  const std::int64_t num_panels = num_panels_of(head);
  const std::int64_t num_chunks = (num_panels + kChunkPanels - 1) / kChunkPanels;
  const std::int64_t state_bytes = num_chunks * num_rows * static_cast<std::int64_t>(sizeof(RowState));
  RowState* states = reinterpret_cast<RowState*>(stream.pool->shared_scratch(state_bytes));  // (num_chunks, num_rows)

  parallel_for(*stream.pool, num_chunks, [&](std::int64_t chunk, int worker) {
    RowState* state = states + chunk * num_rows;
    for (std::int64_t r = 0; r < num_rows; ++r) state[r] = RowState{};
    char* wide = stream.pool->scratch(worker, kWideBytes + (hidden.rows + 1) * kPanel * 4);
    float* logits = reinterpret_cast<float*>(wide + kWideBytes);
    float* mixed = logits + hidden.rows * kPanel;
    const std::int64_t end = (chunk + 1) * kChunkPanels < num_panels ? (chunk + 1) * kChunkPanels : num_panels;
    for (std::int64_t panel = chunk * kChunkPanels; panel < end; ++panel) {
      const PanelSums sums =
          panel_product(panel_rows(hidden, 0, hidden.rows, logits, kPanel), hidden, head, panel, wide);
      for (std::int64_t r = 0; r < hidden.rows && sums.scales != nullptr; ++r)
        for (std::int64_t i = 0; i < kPanel; i += kLanes) store(logits + r * kPanel + i, sums.at(r, i));
      const std::int32_t first = static_cast<std::int32_t>(panel * kPanel);
      const std::int64_t n = head.num_out - first < kPanel ? head.num_out - first : kPanel;
      for (std::int64_t r = 0; r < num_rows; ++r) {
        const SamplingRule& rule = rules[rows[r].rule];
        const float* of_row = logits + rows[r].hidden_row * kPanel;
        if (rows[r].guide_row >= 0) {
          const float* guide = logits + rows[r].guide_row * kPanel;
          const F32 factor = set1(static_cast<float>(rule.guidance_scale) + 1.0f);
          for (std::int64_t i = 0; i < kPanel; i += kLanes)
            store(mixed + i, load(guide + i) + factor * (load(of_row + i) - load(guide + i)));
          of_row = mixed;
        }
        if (n == kPanel && ordinary(rule, rows[r], first))
          fold_fast(state[r], of_row, first);
        else
          fold_slowly(state[r], rule, rows[r], of_row, first, n);
      }
    }
  });

  std::int64_t num_bad = 0;
  for (std::int64_t r = 0; r < num_rows; ++r) {
    RowState state;
    for (std::int64_t chunk = 0; chunk < num_chunks; ++chunk) merge(state, states[chunk * num_rows + r]);
    const bool usable = state.finite && state.best_token >= 0;
    out[r] = usable ? finish(state, rules[rows[r].rule], rows[r]) : Candidate{};
    num_bad += !usable;
  }
  return num_bad;
}

}  // namespace llada::cpu::LLADA_TABLE
