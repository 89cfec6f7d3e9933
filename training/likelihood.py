"""How likely a masked diffusion model finds an answer: Monte Carlo estimates of its bound, with their errors.

Two estimators of one number, the upper bound on the negative log-likelihood that training minimises:

    "counted"  hide l of the L answer tokens, l uniform in 1..L: loss * L / l     (arXiv 2502.09992, eq. 14)
    "times"    hide each token with probability t, t uniform in (0, 1): loss / t  (eq. 12)

Both average over the same hidden sets with the same weights in the end; "counted" needs far fewer draws. The noise of a
row comes from (seed, row, draw), so an estimate depends neither on the batch nor on the other rows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.arm import ratio
from training.data import generator
from training.model import LLaDA

Estimator = Literal["counted", "times"]
STREAM = 16  # of the counter generator: apart from those of training
DRAWS_TOGETHER = 16  # draws whose l or t lie at equal distances from one random start, as published


@dataclass(frozen=True, slots=True)
class Bound:
    """Upper bound on the negative log-likelihood, per token over all rows.

    standard_error: over the rows asked, which includes the noise of the draws. draw_error: of the draws alone, the rows
    as they are (draws are spread evenly, so rather too large).
    """

    nats_per_token: float
    standard_error: float
    draw_error: float
    num_tokens: int
    num_rows: int
    num_draws: int  # of each row

    @property
    def perplexity(self) -> float:
        """An upper bound too."""
        return math.exp(self.nats_per_token)


def hidden_sets(
    length: int, num_draws: int, estimator: Estimator, seed: int, row: int
) -> tuple[np.ndarray, np.ndarray]:
    """(num_draws, length) bool, what is hidden, and (num_draws,) float64, the weight of a draw's loss."""
    hidden = np.zeros((num_draws, length), dtype=bool)
    weight = np.zeros(num_draws)
    for begin in range(0, num_draws, DRAWS_TOGETHER):
        rng = generator(seed, STREAM, row, begin)
        count = min(DRAWS_TOGETHER, num_draws - begin)
        even = (rng.random() + np.arange(count) / count) % 1.0  # (count,), each uniform in [0, 1)
        draws = rng.random((count, length))
        chosen = slice(begin, begin + count)
        if estimator == "counted":
            counts = np.minimum((even * length).astype(np.int64) + 1, length)
            hidden[chosen] = draws.argsort(1).argsort(1) < counts[:, None]
            weight[chosen] = length / counts
        else:
            times = 1.0 - even  # in (0, 1]
            hidden[chosen] = draws < times[:, None]
            weight[chosen] = 1 / times
    return hidden, weight


@torch.no_grad()
def bound(
    model: LLaDA,
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    num_draws: int = 128,
    estimator: Estimator = "counted",
    seed: int = 0,
    batch_tokens: int = 16384,
) -> Bound:
    """The bound over rows of (prompt, answer); the prompt is never hidden, the answer's end token counts."""
    if model.config.causal:
        raise ValueError("expected a masked model, got a causal one (an ARM): its likelihood is exact")
    if estimator not in ("counted", "times") or num_draws < 1:
        raise ValueError(f"expected 'counted' or 'times' and draws, got {estimator!r} and {num_draws}")
    if empty := [index for index, (_, answer) in enumerate(rows) if not len(answer)]:
        raise ValueError(f"row {empty[0]} has no answer")
    means, variances = [], []
    for index, (prompt, answer) in enumerate(rows):
        hidden, weight = hidden_sets(len(answer), num_draws, estimator, seed, index)
        losses = torch.cat(
            [
                hidden_losses(model, prompt, answer, torch.from_numpy(part))
                for part in np.array_split(hidden, -(-num_draws * (len(prompt) + len(answer)) // batch_tokens))
            ]
        )
        values = losses.numpy() * weight  # (num_draws,)
        means.append(float(values.mean()))
        variances.append(float(values.var(ddof=1)) / num_draws if num_draws > 1 else math.nan)
    counts = [len(answer) for _, answer in rows]
    mean, error = ratio(means, counts)
    return Bound(mean, error, math.sqrt(sum(variances)) / sum(counts), sum(counts), len(rows), num_draws)


def hidden_losses(model: LLaDA, prompt: Sequence[int], answer: Sequence[int], hidden: Tensor) -> Tensor:
    """Sum of the cross-entropies of the hidden tokens, unweighted: (draws,) float64. hidden: (draws, answer) bool."""
    clean = torch.tensor([*prompt, *answer]).expand(len(hidden), -1)  # (draws, length)
    masked = torch.cat([torch.zeros(len(hidden), len(prompt), dtype=torch.bool), hidden], 1)
    if not masked.any():
        return torch.zeros(len(hidden), dtype=torch.float64)
    logits = model(clean.masked_fill(masked, model.config.mask_token_id), masked)  # (num_hidden, vocab_size)
    losses = F.cross_entropy(logits.float(), clean[masked], reduction="none").double()
    return torch.zeros(clean.shape, dtype=torch.float64).masked_scatter(masked, losses).sum(1)
