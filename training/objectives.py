"""What a stage minimises: a sum over rows and the count it is divided by, so that parts of a batch add up.

The loss of a step is (sum of `loss_sum` over all parts) / (sum of `count` over all parts), whether the parts are micro-
batches, ranks or both. Per-part means would weigh parts with few hidden tokens too much.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from training.block_causal import block_causal_logits, block_noise
from training.config import TrainConfig
from training.data import Batch
from training.losses import next_token_losses, token_losses
from training.masking import Noised, forward_process, forward_process_counted
from training.model import ModelConfig

Rows = TypeVar("Rows", contravariant=True)  # the kind of batch that an objective takes


class Objective(Protocol[Rows]):
    """`unit` names what the loss is measured in, for people who watch a run."""

    @property
    def unit(self) -> str: ...

    def count(self, batch: Rows) -> float:
        """What this part adds to the divisor of the step: tokens, rows or targets."""
        ...

    def loss_sum(self, model: nn.Module, batch: Rows) -> Tensor:
        """Scalar: the sum of this part's losses."""
        ...


@dataclass(frozen=True, slots=True)
class MaskedObjective:
    """The weighted cross-entropy of hidden tokens: LLaDA's bound on the negative log-likelihood.

    normalisation: "tokens", each maskable token counts the same (pre-training: sum of CE / p over batch times length);
    "answers", each row counts the same, its loss divided by the length of its answer (supervised fine-tuning); the
    length counts the answer's EOS padding, as in LLaDA's guidelines.
    counted: exactly l of a row's maskable tokens are hidden instead of each one by itself (masking.py).
    """

    mask_id: int
    normalisation: Literal["tokens", "answers"] = "tokens"
    counted: bool = False
    unit: str = "nats per token, upper bound"

    def noise(self, batch: Batch) -> Noised:
        process = forward_process_counted if self.counted else forward_process
        return process(batch.tokens, batch.times, batch.draws, mask_id=self.mask_id, maskable=batch.maskable)

    def count(self, batch: Batch) -> float:
        return float(batch.tokens.shape[0] if self.normalisation == "answers" else batch.maskable.sum())

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        noised = self.noise(batch)
        return self.noised_loss_sum(model(noised.tokens, noised.masked), batch, noised)

    def noised_loss_sum(self, logits: Tensor, batch: Batch, noised: Noised) -> Tensor:
        """logits: (num_masked, vocab_size), of the hidden tokens in row-major order."""
        losses = token_losses(logits, batch.tokens, noised)  # (num_masked)
        if self.normalisation == "answers":
            lengths = batch.maskable.sum(1, keepdim=True).expand(batch.tokens.shape)[noised.masked]
            losses = losses / lengths
        return losses.sum()


@dataclass(frozen=True, slots=True)
class BlockCausalObjective(MaskedObjective):
    """The same for a block-causal model: each block is denoised given the clean blocks before it, all in one pass.

    Each block has a time of its own, made from the row's (block_causal.py); a forward pass takes twice the row.
    """

    block_length: int = 1

    def noise(self, batch: Batch) -> Noised:
        process = forward_process_counted if self.counted else forward_process
        return block_noise(
            process,
            batch.tokens,
            batch.times,
            batch.draws,
            mask_id=self.mask_id,
            maskable=batch.maskable,
            block_length=self.block_length,
        )

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        noised = self.noise(batch)
        logits = block_causal_logits(model, noised, batch.tokens, self.block_length)
        return self.noised_loss_sum(logits, batch, noised)


@dataclass(frozen=True, slots=True)
class NextTokenObjective:
    """Cross-entropy of the next token, for the ARM of a comparison (a model with `causal`), on the same rows.

    Targets are the tokens that a masked model may hide, except the first of a row, which nothing predicts. Only
    the first EOS of those that fill a row is a target: an ARM stops there, and what comes after would dilute its loss.
    """

    eos_id: int
    normalisation: Literal["tokens", "answers"] = "tokens"
    unit: str = "nats per token"

    def targets(self, batch: Batch) -> Tensor:
        """(rows, length) bool."""
        is_eos = batch.tokens == self.eos_id
        tail = is_eos.flip(1).cumprod(1).flip(1).bool()  # (rows, length): EOS from here to the end of the row
        repeated = torch.zeros_like(tail)
        repeated[:, 1:] = tail[:, 1:] & tail[:, :-1] & batch.maskable[:, :-1]
        targets = batch.maskable & ~repeated
        targets[:, 0] = False
        return targets

    def count(self, batch: Batch) -> float:
        return float(batch.tokens.shape[0] if self.normalisation == "answers" else self.targets(batch).sum())

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        targets = self.targets(batch)
        before = targets.roll(-1, dims=1)  # the position whose logits predict the target; targets[:, 0] is false
        losses = next_token_losses(model(batch.tokens, before), batch.tokens, targets)  # (num_targets)
        if self.normalisation == "answers":
            losses = losses / targets.sum(1, keepdim=True).expand(batch.tokens.shape)[targets]
        return losses.sum()


def choose_objective(
    model: ModelConfig, config: TrainConfig, normalisation: Literal["tokens", "answers"]
) -> MaskedObjective | NextTokenObjective:
    """For this kind of model. normalisation: the stage's, "tokens" or "answers"; a recipe's own goes before it."""
    normalisation = config.normalisation or normalisation
    if model.causal:
        return NextTokenObjective(model.eos_token_id, normalisation)
    masked = MaskedObjective(model.mask_token_id, normalisation, config.counted_masks)
    if model.attention_block_length is not None:
        return BlockCausalObjective(
            masked.mask_id, masked.normalisation, masked.counted, block_length=model.attention_block_length
        )
    return masked
