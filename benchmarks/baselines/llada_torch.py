"""LLaDA's sampling loop in plain torch, batch 1, as published (ML-GSAI/LLaDA, generate.py).

Every step runs the whole canvas, takes logits at every position, adds Gumbel noise in float64 where there is a
temperature, and takes the confidence from a float64 softmax. This is its temperature 0 and `low_confidence`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from training.model import LLaDA


class FullLoop:
    """One canvas, (1, length); `model` may be compiled."""

    def __init__(self, model: LLaDA | Callable[[Tensor], Tensor], canvas: list[int], mask_id: int) -> None:
        self.model, self.mask_id = model, mask_id
        self.canvas = torch.tensor([canvas])

    @torch.no_grad()
    def denoise(self, block: tuple[int, int], num_steps: int) -> None:
        """Fills a block: its masks spread over the steps, the first ones take one more."""
        num_masked = int((self.canvas[0, slice(*block)] == self.mask_id).sum())
        for step in range(num_steps):
            self._step(block[1], num_masked // num_steps + (step < num_masked % num_steps))

    def _step(self, stop: int, count: int) -> None:
        masked = self.canvas == self.mask_id
        logits = self.model(self.canvas)  # (1, length, vocabulary)
        token = logits.argmax(-1)
        probability = logits.to(torch.float64).softmax(-1).gather(-1, token[..., None])[..., 0]
        probability[:, stop:] = -torch.inf
        confidence = torch.where(masked, probability, -torch.inf)
        chosen = confidence[0].topk(count).indices
        self.canvas[0, chosen] = token[0, chosen]
