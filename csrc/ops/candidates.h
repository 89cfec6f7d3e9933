// What a row of logits comes to: a running state that takes token after token and merges with others, the candidate
// that is read from it, and the row's most probable tokens. The same arithmetic for every table.
#pragma once

#include <cmath>
#include <limits>

#include "core/random.h"
#include "ops/ops.h"

namespace llada {

constexpr float kNoLogit = -std::numeric_limits<float>::infinity();

// What is known of a row after part of its vocabulary. `best` is over the tokens that may be the candidate, the mask id
// apart; scores are logits, or noised logits where there is a temperature.
struct RowState {
  double sum = 0;       // of exp(logit - largest) over the softmax
  double weighted = 0;  // of exp(logit - largest) (logit - largest)
  double best_score = -std::numeric_limits<double>::infinity();
  double mask_score = -std::numeric_limits<double>::infinity();
  float largest = kNoLogit;  // over the softmax
  float second = kNoLogit;
  float best_logit = kNoLogit;
  float mask_logit = kNoLogit;
  float target_logit = kNoLogit;
  std::int32_t best_token = -1;
  bool finite = true;
};

// The vocabulary is cut into chunks of so many tokens, each with a state for each row.
constexpr std::int64_t kCandidateChunk = 512;

inline constexpr std::int64_t candidate_bytes(std::int64_t num_rows, std::int64_t vocab_size) {
  return num_rows * ((vocab_size + kCandidateChunk - 1) / kCandidateChunk) *
         static_cast<std::int64_t>(sizeof(RowState));
}

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

LLADA_INLINE bool is_finite(float logit) { return std::fabs(logit) <= std::numeric_limits<float>::max(); }

LLADA_INLINE bool unconfident(const SamplingRule& rule, std::int32_t token) {
  return token == rule.unconfident_tokens[0] || token == rule.unconfident_tokens[1];
}

// What the choice of the token goes by: the logit, with Gumbel noise where there is a temperature.
LLADA_INLINE double score_of(const SamplingRule& rule, const CandidateRow& row, std::int32_t token, float logit) {
  double score = static_cast<double>(logit);
  if (rule.temperature > 0) {
    const double u = uniform(rule.seed, token, row.position, rule.step, kGumbelStream);
    score -= rule.temperature * std::log(-std::log(u));
  }
  return score;
}

// Whether a token is in a set; nullptr is the set of all.
LLADA_INLINE bool is_allowed(const std::uint32_t* set, std::int32_t token) {
  return set == nullptr || (set[token / 32] >> (token % 32) & 1u) != 0;
}

// Takes one token; tokens come in ascending order. set: the tokens that may be the candidate.
LLADA_INLINE void fold_token(RowState& state, const SamplingRule& rule, const CandidateRow& row,
                             const std::uint32_t* set, std::int32_t token, float logit) {
  if (!is_finite(logit)) state.finite = false;
  if (token == row.target) state.target_logit = logit;
  if (token == rule.suppressed_token) return;
  if (is_allowed(set, token)) {
    const double score = score_of(rule, row, token, logit);
    if (token == rule.mask_id) {
      state.mask_score = score;
      state.mask_logit = logit;
    } else if (score > state.best_score) {
      state.best_score = score;
      state.best_logit = logit;
      state.best_token = token;
    }
  }
  if (unconfident(rule, token)) return;
  push_largest(state, logit, kNoLogit);
  const double d = static_cast<double>(logit) - static_cast<double>(state.largest);
  const double e = std::exp(d);
  state.sum += e;
  state.weighted += e * d;
}

// Takes what `next` knows of the tokens after those of `into`.
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

LLADA_INLINE double confidence_of(const RowState& state, const SamplingRule& rule, const CandidateRow& row,
                                  std::int32_t token, float logit, const Candidate& shared, double& probability) {
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

// The log-probability of a token with this logit. A token that was left out of the softmax counts for itself.
LLADA_INLINE double log_prob_of(const RowState& state, const SamplingRule& rule, std::int32_t token, float logit,
                                double log_sum) {
  const double d = static_cast<double>(logit) - static_cast<double>(state.largest);
  return d - (unconfident(rule, token) ? std::log(state.sum + std::exp(d)) : log_sum);
}

// The candidate of a row whose whole vocabulary is in `state`.
LLADA_INLINE Candidate candidate_of(const RowState& state, const SamplingRule& rule, const CandidateRow& row) {
  Candidate out;
  out.position = row.position;
  if (!state.finite || state.best_token < 0) return out;
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
  out.log_prob = log_prob_of(state, rule, out.token, logit, log_sum);
  out.other_log_prob = log_prob_of(state, rule, out.other_token, state.best_logit, log_sum);
  return out;
}

// A token of a list of the most probable ones: most probable first, of equals the lower token first. So the list of a
// set of tokens is one and the same, in whatever order they come.
struct Ranked {
  float logit = kNoLogit;
  std::int32_t token = -1;
};

inline constexpr std::int64_t alternative_bytes(std::int64_t num_rows, std::int64_t most, std::int64_t num_workers) {
  return num_workers * num_rows * most * static_cast<std::int64_t>(sizeof(Ranked));
}

LLADA_INLINE bool before(const Ranked& a, const Ranked& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

LLADA_INLINE bool in_softmax(const SamplingRule& rule, std::int32_t token) {
  return token != rule.suppressed_token && !unconfident(rule, token);
}

// Puts a token into a list of `length` if it is before the last one there. False: it is not.
LLADA_INLINE bool offer(Ranked* list, std::int64_t length, const Ranked& ranked) {
  std::int64_t at = length - 1;
  if (!before(ranked, list[at])) return false;
  for (; at > 0 && before(ranked, list[at - 1]); --at) list[at] = list[at - 1];
  list[at] = ranked;
  return true;
}

// Takes what another list of that length holds. Lists of disjoint sets of tokens.
LLADA_INLINE void offer_all(Ranked* list, const Ranked* other, std::int64_t length) {
  for (std::int64_t i = 0; i < length && other[i].token >= 0; ++i)
    if (!offer(list, length, other[i])) return;
}

// An entry of the list of a row whose whole vocabulary is in `state`.
LLADA_INLINE Alternative alternative_of(const RowState& state, const SamplingRule& rule, const Ranked& ranked) {
  Alternative out;
  if (!state.finite || ranked.token < 0) return out;
  out.token = ranked.token;
  out.log_prob = log_prob_of(state, rule, ranked.token, ranked.logit, std::log(state.sum));
  return out;
}

}  // namespace llada
