"""Teach a model which of two answers is better:  python -m training.preference RECIPE.toml --init MODEL_DIR --out DIR

VRPO (LLaDA 1.5, arXiv 2505.19223): the preference loss of DPO on Monte-Carlo bounds of the log-likelihood, against the
frozen model that the run began with, plus a little of the fine-tuning loss. Rows are {"prompt", "chosen", "rejected"}.
With the table [lora] only adapters learn, and the reference is the same model without them.
"""

import sys
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from training.distributed import World, join, shard
from training.lora import adapters_off
from training.losses import preference_losses, row_bounds
from training.masking import forward_process, forward_process_counted
from training.model import LLaDA, ModelConfig
from training.preference_pairs import BETTER, PairBatch, PairBatches, PreferenceConfig
from training.recipe import RunConfig, open_data, read_command, run_command, train_and_export


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
        fine_tuning = -policy[:, BETTER] / batch.maskable[:, BETTER].sum(-1)  # losses.sft_loss of each better answer
        return (preferred + self.sft_weight * fine_tuning).sum()


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceRun(RunConfig):
    """A run of this stage: what every run has, and the table [preference]."""

    takes_pairs: ClassVar[bool] = True
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)


def check(config: PreferenceRun) -> None:
    if config.data is None or config.data.layout != "rows":
        raise ValueError("preference training expected the table [data] with layout 'rows'")
    if config.init is None:
        raise ValueError("preference training expected --init with the fine-tuned model it begins with")
    if config.held_out:
        raise ValueError("held_out expected no files here: python -m training.ranking tells how answers are ranked")
    if ModelConfig.from_json(config.init / "config.json").model_type != "llada":
        raise ValueError(f"{config.init}: preference training expected a masked model with full attention")


def open_reference(config: PreferenceRun, world: World) -> LLaDA | None:
    """The model of --init, frozen; None with adapters: they can be switched off."""
    if config.lora is not None:
        return None
    assert config.init is not None
    model = LLaDA.from_folder(config.init).requires_grad_(False)
    if world.size == 1:
        return model.to(world.device)
    shard(model, list(model.transformer["blocks"]), world, bf16=config.train.bf16)
    return model


def main() -> None:
    config = read_command(sys.argv[1:], __doc__, PreferenceRun)
    with run_command(), join(config.device) as world:
        check(config)
        data = open_data(config, world)
        assert config.data is not None
        assert data.store is not None
        eos_id = data.vocabulary.eos_id
        batches = PairBatches(data.store, config.data.batches, config.preference, seed=config.train.seed, eos_id=eos_id)
        reference, weights = open_reference(config, world), config.preference

        def objective(model: ModelConfig) -> PreferenceObjective:
            counted = config.train.counted_masks
            return PreferenceObjective(model.mask_token_id, reference, weights.beta, weights.sft_weight, counted)

        train_and_export(config, objective, world, replace(data, batches=batches))


if __name__ == "__main__":
    main()
