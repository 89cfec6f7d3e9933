"""What preference training minimises: VRPO's loss, with the reference model in it (LLaDA 1.5, arXiv 2505.19223)."""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.lora import adapters_off
from training.losses import preference_losses, row_bounds
from training.masking import forward_process, forward_process_counted
from training.preference_pairs import BETTER, PairBatch


@dataclass(frozen=True, slots=True)
class PreferenceObjective:
    """reference: a frozen model, or None: the policy with its adapters off. The other fields: PreferenceConfig.

    counted: exactly l of an answer's tokens are hidden instead of each one by itself (masking.py).
    """

    mask_id: int
    reference: nn.Module | None
    beta: float = 0.2
    sft_weight: float = 0.05
    counted: bool = True
    unit: str = "preference loss, 0.69 where nothing is preferred"

    def bounds(self, model: nn.Module, tokens: Tensor, maskable: Tensor, times: Tensor, draws: Tensor) -> Tensor:
        """Bounds of log p(answer | question) in nats, each the mean over its noisy copies: (pairs, 2).

        tokens, maskable: (pairs, 2, length); times: (pairs, 2, n_time); draws: (pairs, 2 * n_time * n_mask * length).
        """
        pairs, _, length = tokens.shape
        n_time = times.shape[2]
        shape = (pairs, 2, n_time, draws.shape[1] // (2 * n_time * length))  # of the copies

        def copies(x: Tensor) -> Tensor:  # (pairs, 2, length) -> (copies, length)
            return x[:, :, None, None].expand(*shape, length).reshape(-1, length)

        process = forward_process_counted if self.counted else forward_process
        rows, t = copies(tokens), times[..., None].expand(shape).reshape(-1)
        noised = process(rows, t, draws.reshape(-1, length), mask_id=self.mask_id, maskable=copies(maskable))
        logits = model(noised.tokens, noised.masked)
        return row_bounds(logits, rows, noised).reshape(pairs, 2, -1).mean(-1)

    @torch.no_grad()
    def reference_bounds(self, model: nn.Module, batch: PairBatch) -> Tensor:
        """(pairs, 2)"""
        without = adapters_off(model) if self.reference is None else nullcontext()
        with without:
            reference = model if self.reference is None else self.reference
            return self.bounds(reference, batch.tokens, batch.maskable, batch.reference_times, batch.reference_draws)

    def count(self, batch: PairBatch) -> float:
        return float(batch.tokens.shape[0])

    def loss_sum(self, model: nn.Module, batch: PairBatch) -> Tensor:
        reference = self.reference_bounds(model, batch)  # first: its adapters are off and on again before any gradient
        policy = self.bounds(model, batch.tokens, batch.maskable, batch.times, batch.draws)
        preferred = preference_losses(policy, reference, self.beta)
        fine_tuning = -policy[:, BETTER] / batch.maskable[:, BETTER].sum(-1)  # the better answer's own loss
        return (preferred + self.sft_weight * fine_tuning).sum()
