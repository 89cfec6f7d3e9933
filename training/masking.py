"""The forward process of masked diffusion: which tokens are hidden, with what probability. Pure functions.

Random numbers come in as arguments, so a caller decides how they are keyed and a test can replay recorded ones.
"""

from typing import NamedTuple

import torch
from torch import Tensor

EPS = 1e-3  # the smallest masking probability of LLaDA's guidelines


class Noised(NamedTuple):
    tokens: Tensor  # (batch, length): the input with masks
    masked: Tensor  # (batch, length) bool: where a token was hidden, hence where there is a loss
    weight: Tensor  # (batch, length): 1 / masking probability, the weight of each hidden token's loss


def mask_probability(t: Tensor, eps: float = EPS) -> Tensor:
    """p = (1 - eps) t + eps."""
    return (1 - eps) * t + eps


def low_discrepancy_times(draw: float, batch: int) -> Tensor:
    """t of a batch from one uniform draw: (draw + i / batch) mod 1. Each t alone is uniform; together they are even."""
    return (draw + torch.arange(batch, dtype=torch.float64) / batch).remainder(1.0).float()


def forward_process(
    tokens: Tensor, t: Tensor, draws: Tensor, *, mask_id: int, maskable: Tensor | None = None, eps: float = EPS
) -> Noised:
    """Hide each maskable token independently with probability p(t).

    tokens, draws: (batch, length), draws uniform in [0, 1); t: (batch); maskable: bool (batch, length), all if None
    (supervised fine-tuning keeps the prompt: maskable is the answer and its padding).
    """
    p = mask_probability(t, eps)[:, None].expand(tokens.shape)
    masked = draws < p
    if maskable is not None:
        masked = masked & maskable
    return Noised(tokens.masked_fill(masked, mask_id), masked, 1 / p)


def forward_process_counted(
    tokens: Tensor, t: Tensor, draws: Tensor, *, mask_id: int, maskable: Tensor | None = None
) -> Noised:
    """Hide exactly l of a row's L maskable tokens, l = floor(t L) + 1 uniform in 1..L; weight L / l.

    The same objective in expectation (arXiv 2502.09992, eq. 6) with less variance: no row is without a loss, and the
    losses of a row are averaged over what is hidden. Short answers gain most.
    """
    if maskable is None:
        maskable = torch.ones_like(tokens, dtype=torch.bool)
    lengths = maskable.sum(1)  # (batch)
    counts = ((t * lengths).long() + 1).minimum(lengths)
    order = draws.masked_fill(~maskable, 2.0).argsort(1).argsort(1)  # rank of each position's draw in its row
    masked = order < counts[:, None]
    weight = (lengths / counts.clamp_min(1))[:, None].expand(tokens.shape)
    return Noised(tokens.masked_fill(masked, mask_id), masked, weight)
