// From hidden rows to candidates in one pass over the vocabulary: a tile of 64 logits per row, then gone. The
// vocabulary is cut into fixed chunks, each reduced by one worker; the chunks are merged in order, so threads don't
// change the result. The most probable tokens of a row, where somebody asks for them, are kept by each worker for all
// its chunks: after the first ones nearly every tile lies below the last of them, which one comparison shows.
#include "ops/candidates.h"

#include <bit>
#include <limits>

#include "core/parallel.h"
#include "cpu/kernels.h"
#include "cpu/simd/panel.h"

namespace llada::cpu::LLADA_TABLE {
namespace {

constexpr std::int64_t kChunkPanels = kCandidateChunk / kPanel;

// One token at a time: tiles with special tokens, the last tile, and rows with noise.
void fold_slowly(RowState& state, const SamplingRule& rule, const CandidateRow& row, const std::uint32_t* set,
                 const float* logits, std::int32_t first, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i)
    fold_token(state, rule, row, set, first + static_cast<std::int32_t>(i), logits[i]);
}

// The best of the tile's tokens in a set. Where a set is small, most of its words are zero and cost one look.
void fold_allowed(RowState& state, const std::uint32_t* set, const float* logits, std::int32_t first) {
  static_assert(kPanel % 32 == 0);
  for (std::int32_t begin = 0; begin < kPanel; begin += 32) {
    for (std::uint32_t bits = set[(first + begin) / 32]; bits != 0; bits &= bits - 1) {
      const std::int32_t i = begin + std::countr_zero(bits);
      if (!(static_cast<double>(logits[i]) > state.best_score)) continue;
      state.best_score = static_cast<double>(logits[i]);
      state.best_logit = logits[i];
      state.best_token = first + i;
    }
  }
}

// A full tile of ordinary tokens without noise; returns its largest logit.
LLADA_INLINE float fold_fast(RowState& state, const std::uint32_t* set, const float* logits, std::int32_t first) {
  F32 top = set1(kNoLogit), next = set1(kNoLogit);
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
    float b = kNoLogit;
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
  if (static_cast<double>(a) > state.best_score && set != nullptr) {
    fold_allowed(state, set, logits, first);
  } else if (static_cast<double>(a) > state.best_score) {
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
  return a;
}

// Offers a tile to a row's list.
void rank(Ranked* list, const SamplingRule& rule, const float* logits, std::int32_t first, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int32_t token = first + static_cast<std::int32_t>(i);
    if (in_softmax(rule, token)) offer(list, rule.num_alternatives, {logits[i], token});
  }
}

LLADA_INLINE bool ordinary(const SamplingRule& rule, const CandidateRow& row, std::int32_t first) {
  const auto outside = [&](std::int32_t token) { return token < first || token >= first + kPanel; };
  return !(rule.temperature > 0) && outside(rule.mask_id) && outside(rule.suppressed_token) &&
         outside(rule.unconfident_tokens[0]) && outside(rule.unconfident_tokens[1]) && outside(row.target);
}

}  // namespace

void candidates(Stream stream, ConstTensor hidden, const PackedWeight& head, const SamplingRule* rules, std::int64_t,
                const CandidateRow* rows, std::int64_t num_rows, const std::uint32_t* allowed, std::int64_t,
                Candidate* out, std::int64_t most, Alternative* alternatives) {
  if (num_rows == 0) return;
  const std::int64_t num_panels = num_panels_of(head);
  const std::int64_t num_chunks = (num_panels + kChunkPanels - 1) / kChunkPanels;
  const std::int64_t state_bytes = candidate_bytes(num_rows, head.num_out);
  const std::int64_t num_workers = stream.pool->num_threads();
  const std::int64_t list_bytes = alternative_bytes(num_rows, most, num_workers);
  RowState* states = reinterpret_cast<RowState*>(stream.pool->shared_scratch(state_bytes + list_bytes));
  // states: (num_chunks, num_rows), lists: (num_workers, num_rows, most)
  Ranked* lists = reinterpret_cast<Ranked*>(states + num_chunks * num_rows);
  for (std::int64_t i = 0; i < num_workers * num_rows * most; ++i) lists[i] = Ranked{};

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
        const std::uint32_t* const set =
            rows[r].allowed < 0 ? nullptr : allowed + rows[r].allowed * set_words(head.num_out);
        float largest = std::numeric_limits<float>::infinity();
        if (n == kPanel && ordinary(rule, rows[r], first))
          largest = fold_fast(state[r], set, of_row, first);
        else
          fold_slowly(state[r], rule, rows[r], set, of_row, first, n);
        if (rule.num_alternatives == 0) continue;
        Ranked* const list = lists + (worker * num_rows + r) * most;
        if (largest >= list[rule.num_alternatives - 1].logit) rank(list, rule, of_row, first, n);
      }
    }
  });

  for (std::int64_t r = 0; r < num_rows; ++r) {
    RowState state;
    for (std::int64_t chunk = 0; chunk < num_chunks; ++chunk) merge(state, states[chunk * num_rows + r]);
    const SamplingRule& rule = rules[rows[r].rule];
    out[r] = candidate_of(state, rule, rows[r]);
    Ranked* const list = lists + r * most;
    for (std::int64_t worker = 1; worker < num_workers && rule.num_alternatives > 0; ++worker)
      offer_all(list, list + worker * num_rows * most, rule.num_alternatives);
    for (std::int32_t i = 0; i < rule.num_alternatives; ++i)
      alternatives[r * most + i] = alternative_of(state, rule, list[i]);
  }
}

}  // namespace llada::cpu::LLADA_TABLE
