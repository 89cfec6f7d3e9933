"""Training losses of LLaDA and of the autoregressive model (ARM) it is compared with. Pure functions of logits.

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


def pretrain_loss(logits: Tensor, tokens: Tensor, noised: Noised) -> Tensor:
    """Sum of CE / p over hidden tokens, divided by all tokens of the batch."""
    return token_losses(logits, tokens, noised).sum() / tokens.numel()


def sft_loss(logits: Tensor, tokens: Tensor, noised: Noised, maskable: Tensor) -> Tensor:
    """Sum of CE / p over hidden answer tokens, each row divided by its answer's length; mean over rows.

    The answer's length counts its EOS padding, as in the guidelines. A row whose every token is maskable gives its
    share of the pre-training loss, so this one formula also serves batches of plain text of one length.
    """
    lengths = maskable.sum(1, keepdim=True).expand(tokens.shape)[noised.masked]  # (num_masked)
    return (token_losses(logits, tokens, noised) / lengths).sum() / tokens.shape[0]


def arm_loss(logits: Tensor, tokens: Tensor, counted: Tensor | None = None) -> Tensor:
    """Next-token cross-entropy, mean over targets. logits: (batch, length, vocab_size) of the causal model.

    counted: bool (batch, length), the tokens that count as targets (an answer); the first token is never one.
    """
    targets = tokens[:, 1:]
    losses = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), targets.flatten(), reduction="none")
    if counted is None:
        return losses.mean()
    chosen = counted[:, 1:].flatten()
    return losses[chosen].mean()
