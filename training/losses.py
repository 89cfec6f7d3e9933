"""Training losses of LLaDA and of the autoregressive model (ARM) it is compared with. Pure functions of logits.

The losses are those of single tokens, rows or pairs; objectives.py adds them up and says what they are divided by.

Formulas: LLaDA's GUIDELINES.md and arXiv 2502.09992. `logits` are those of the hidden positions only, in row-major
order, (num_masked, vocab_size): `model(noised.tokens, noised.masked)`.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from training.masking import Noised


def token_losses(logits: Tensor, tokens: Tensor, noised: Noised) -> Tensor:
    """Weighted cross-entropy of each hidden token: (num_masked). tokens: the clean (batch, length)."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    losses = F.cross_entropy(wide, tokens[noised.masked], reduction="none")
    return losses * noised.weight[noised.masked].to(losses.dtype)


def next_token_losses(logits: Tensor, tokens: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each target under the causal model's logits of the position before it: (num_targets).

    targets: bool (batch, length), false in the first column; logits: (num_targets, vocab_size), row-major.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(wide, tokens[targets], reduction="none")


def row_bounds(logits: Tensor, tokens: Tensor, noised: Noised) -> Tensor:
    """One-sample bound of each row's log p(answer | prompt), in nats: minus the weighted cross-entropy. (batch)"""
    row = noised.masked.nonzero()[:, 0]  # (num_masked): which row a hidden token is of
    losses = token_losses(logits, tokens, noised)
    return torch.zeros(tokens.shape[0], dtype=losses.dtype, device=losses.device).index_add(0, row, -losses)


def preference_losses(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta ((policy - reference) of the better answer - the same of the worse)): (pairs).

    policy, reference: (pairs, 2), bounds of log p of the better and of the worse answer. DPO (arXiv 2305.18290) with
    bounds in place of likelihoods: LLaDA 1.5's VRPO (arXiv 2505.19223, eq. 4).
    """
    better, worse = (policy - reference).unbind(1)
    return F.softplus(-beta * (better - worse))
