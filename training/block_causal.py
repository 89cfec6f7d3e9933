"""Block-causal masked diffusion: blocks from left to right, diffusion within a block (BD3-LM, arXiv 2503.09573).

A block is denoised given the clean blocks before it, which never look back at it: their keys and values are final, and
a runtime that keeps them computes the same logits as one that does not. Training denoises all blocks of a text in one
pass over the row [x_t ; x_0]: the noisy text, then the clean one, both at positions 0, 1, ...
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.masking import Noised

GOLDEN = (5**0.5 - 1) / 2  # multiples of it, modulo 1, spread evenly however many there are


def training_visible(length: int, block_length: int, device: torch.device | None = None) -> Tensor:
    """bool (2 length, 2 length), rows see columns, both [x_t ; x_0].

    A block of x_t sees itself and the blocks of x_0 before it; x_0 is block-causal among itself.
    """
    block = torch.arange(length, device=device) // block_length
    same, earlier = block[:, None] == block[None, :], block[:, None] > block[None, :]
    noisy_half = torch.cat([same, earlier], dim=1)
    clean_half = torch.cat([torch.zeros_like(same), same | earlier], dim=1)
    return torch.cat([noisy_half, clean_half])


def block_times(t: Tensor, num_blocks: int) -> Tensor:
    """A time for each block from one for each row: (batch) -> (batch, num_blocks).

    Each is uniform if the row's is, which keeps the loss unbiased; together they cover [0, 1) evenly.
    """
    steps = torch.arange(num_blocks, dtype=torch.float64, device=t.device) * GOLDEN
    # Rounding to float32 may reach 1, which is not a time.
    return (t.double()[:, None] + steps).remainder(1.0).float().clamp_max(1 - 2.0**-24)


def block_noise(
    process: Callable[..., Noised],
    tokens: Tensor,
    t: Tensor,
    draws: Tensor,
    *,
    mask_id: int,
    maskable: Tensor,
    block_length: int,
) -> Noised:
    """A forward process of masking.py, applied to each block with a time of its own.

    tokens, draws, maskable: (batch, length), blocks counted from position 0, the last one may be short; t: (batch).
    """
    batch, length = tokens.shape
    num_blocks = -(-length // block_length)
    padding = (0, num_blocks * block_length - length)

    def blocks(x: Tensor) -> Tensor:  # (batch, length) -> (batch * num_blocks, block_length); padding is not maskable
        return F.pad(x, padding).reshape(batch * num_blocks, block_length)

    times = block_times(t, num_blocks).flatten()
    noised = process(blocks(tokens), times, blocks(draws), mask_id=mask_id, maskable=blocks(maskable))
    return Noised(*(x.reshape(batch, num_blocks * block_length)[:, :length] for x in noised))


def block_causal_logits(model: nn.Module, noised: Noised, tokens: Tensor, block_length: int) -> Tensor:
    """Logits of the hidden tokens, each given its own noisy block and the clean ones before: (num_masked, vocab_size).

    tokens: the clean (batch, length). What losses.py takes, for every block at once.
    """
    length = tokens.shape[1]
    return model(
        torch.cat([noised.tokens, tokens], dim=1),  # (batch, 2 length)
        F.pad(noised.masked, (0, length)),  # no logits of the clean half
        positions=torch.arange(length, device=tokens.device).repeat(2),
        visible=training_visible(length, block_length, tokens.device),
    )
