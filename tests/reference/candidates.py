"""The proposed token of each row and how sure of it the model is (LLaDA generate.py, get_transfer_index of Fast-dLLM).

In this order: guidance mix, suppression, noise, choice of the token, exclusion of the `unconfident` tokens, softmax
of the logits without noise.
"""

from dataclasses import dataclass, fields

import numpy as np

from .philox import CONFIDENCE_STREAM, GUMBEL_STREAM, uniform

SCORES = ("low_confidence", "random", "margin", "entropy")


@dataclass(frozen=True, slots=True)
class Candidates:
    token: np.ndarray  # (n,) int
    confidence: np.ndarray  # (n,) by `score`; larger is surer
    probability: np.ndarray  # (n,) softmax probability of token
    log_prob: np.ndarray  # (n,) its logarithm; of a token in `unconfident`, as if it alone were not
    entropy: np.ndarray  # (n,) natural log
    margin: np.ndarray  # (n,) largest minus second largest probability

    def of(self, rows: np.ndarray) -> "Candidates":
        return Candidates(**{spec.name: getattr(self, spec.name)[rows] for spec in fields(self)})


def guide(conditional: np.ndarray, unconditional: np.ndarray, scale: float) -> np.ndarray:
    """Classifier-free guidance of the logits: u + (w + 1)(c - u)."""
    return unconditional + (scale + 1) * (conditional - unconditional)


def candidates(
    logits,
    positions,
    *,
    step=0,
    seed=0,
    temperature=0.0,
    score="low_confidence",
    suppressed=(),
    unconfident=(),
    never=(),
    allowed=None,
) -> Candidates:
    """logits: (n, vocab). Ids in `suppressed` have logit -inf, in `never` are not chosen, in `unconfident` have p =
    0. allowed: (n, vocab) bool, the ids that may be chosen; None: each.
    """
    logits = np.array(logits, np.float64)
    logits[:, list(suppressed)] = -np.inf
    noisy = logits.copy()
    if temperature > 0:
        u = uniform(seed, step=step, positions=positions, tokens=np.arange(logits.shape[1]), stream=GUMBEL_STREAM)
        noisy -= temperature * np.log(-np.log(u))
    noisy[:, list(never)] = -np.inf
    if allowed is not None:
        noisy[~allowed] = -np.inf
    token = noisy.argmax(-1)  # the first, that is the lower id, among equals
    own = logits[np.arange(len(logits)), token]
    logits[:, list(unconfident)] = -np.inf
    log_prob = own - np.logaddexp(np.logaddexp.reduce(logits, -1), np.where(np.isin(token, unconfident), own, -np.inf))
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(-1)
    second, first = np.sort(p, -1)[:, -2:].T
    chosen = p[np.arange(len(p)), token]
    draw = uniform(seed, step=step, positions=positions, tokens=np.zeros(1, int), stream=CONFIDENCE_STREAM)[:, 0]
    by_score = {"low_confidence": chosen, "random": draw, "margin": first - second, "entropy": -entropy}
    return Candidates(token, by_score[score], chosen, log_prob, entropy, first - second)


def alternatives(logits, count, *, suppressed=(), unconfident=()) -> tuple[np.ndarray, np.ndarray]:
    """The `count` most probable tokens of each row and their log-probabilities: (n, count) both; -1, 0 where the
    softmax has no more tokens.
    """
    logits = np.array(logits, np.float64)
    logits[:, [*suppressed, *unconfident]] = -np.inf
    with np.errstate(invalid="ignore"):  # of a softmax without tokens
        log_p = logits - np.logaddexp.reduce(logits, -1, keepdims=True)
    tokens = np.argsort(-logits, -1, kind="stable")  # among equals the lower id first
    tokens = np.pad(tokens, ((0, 0), (0, count)))[:, :count]
    log_p = np.take_along_axis(log_p, tokens, -1)
    there = (np.arange(count) < logits.shape[1]) & (log_p > -np.inf)
    return np.where(there, tokens, -1), np.where(there, log_p, 0)
