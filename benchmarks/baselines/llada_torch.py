"""LLaDA's sampling loop in plain torch, as published (ML-GSAI/LLaDA, generate.py).

Every step runs the whole canvas, takes logits at every position, adds Gumbel noise in float64 where there is a
temperature, and takes the confidence from a float64 softmax. This is its temperature 0 and `low_confidence`. With a
threshold or a factor in the place of the schedule it is the first of Fast-dLLM's three loops (NVlabs/Fast-dLLM).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.baselines.rules import Rule, schedule, top
from training.model import LLaDA


class FullLoop:
    """One canvas, or several of one length that step together; `model` may be compiled."""

    def __init__(
        self, model: LLaDA | Callable[[Tensor], Tensor], canvas: Sequence[int] | Sequence[Sequence[int]], mask_id: int
    ) -> None:
        self.model, self.mask_id = model, mask_id
        self.canvas = torch.atleast_2d(torch.tensor(canvas))  # (batch, length)
        self.num_forwards = self.num_rows = 0  # positions put through the network, of one canvas

    def denoise(self, block: tuple[int, int], num_steps: int) -> None:
        """Fills a block: its masks spread over the steps, the first ones take one more."""
        num_masked = int((self.canvas[0, slice(*block)] == self.mask_id).sum())
        for step, count in enumerate(schedule(num_masked, num_steps)):
            self.step(block, step, top(count))

    @torch.no_grad()
    def step(self, block: tuple[int, int], index: int, rule: Rule) -> None:
        """Commits, in each canvas, what the rule takes of the block's masks; every `index` is a full forward here."""
        masked = self.canvas == self.mask_id
        logits = self.model(self.canvas)  # (batch, length, vocabulary)
        token = logits.argmax(-1)
        probability = logits.to(torch.float64).softmax(-1).gather(-1, token[..., None])[..., 0]
        probability[:, block[1] :] = -torch.inf
        confidence = torch.where(masked, probability, -torch.inf)
        self.canvas = torch.where(rule(confidence), token, self.canvas)
        self.num_forwards += 1
        self.num_rows += self.canvas.shape[1]
