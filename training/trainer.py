"""The training loop: one process, exact resume.

State = model, averaged weights, optimiser, step. Batches and noise are functions of (seed, step), the learning rate of
the step alone, so a run that stops and resumes takes the same steps as one that does not.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from training.data import VerseBatches
from training.losses import sft_loss
from training.masking import forward_process, forward_process_counted, low_discrepancy_times
from training.model import LLaDA


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    seed: int
    steps: int
    lr: float  # of AdamW: embedding, head and norms; everything if the matrices have no optimiser of their own
    matrix_lr: float | None = None  # of Muon, for the matrices of the blocks; None: AdamW for all
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    warmup_steps: int = 50
    decay_share: float = 0.3  # of the steps, at the end: linear to zero (warm-up, stable, decay)
    clip: float = 1.0
    counted_masks: bool = True  # exactly l hidden tokens a row (masking.py); False: each token by itself
    ema: float = 0.0  # decay of the averaged weights that are exported; 0: no averaging
    bf16: bool = True  # autocast; parameters stay float32
    log_every: int = 25
    checkpoint_every: int = 500


def learning_rate_factor(config: TrainConfig, step: int) -> float:
    """Warm-up, stable, linear decay: in (0, 1]. step counts from 0."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    decay_steps = config.decay_share * config.steps
    left = (config.steps - step) / decay_steps if decay_steps else 1.0
    return warm * min(1.0, left)


def make_optimizers(model: LLaDA, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW alone, or Muon for the matrices of the blocks and AdamW for the rest. No decay on vectors."""
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and ".blocks." in name]
    tables = [p for name, p in model.named_parameters() if p.dim() == 2 and ".blocks." not in name]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    if config.matrix_lr is None:
        tables = matrices + tables
    groups = [{"params": tables, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)]
    if config.matrix_lr is not None:
        optimizers.append(torch.optim.Muon(matrices, lr=config.matrix_lr, weight_decay=config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


class Trainer:
    """Trains `model` on `batches`; writes metrics.jsonl and checkpoint.pt into `folder`."""

    def __init__(self, model: LLaDA, batches: VerseBatches, config: TrainConfig, folder: Path) -> None:
        self.model, self.batches, self.config, self.folder = model, batches, config, folder
        self.optimizers = make_optimizers(model, config)
        self.step = 0
        self.average = {name: value.clone() for name, value in model.state_dict().items()} if config.ema else None
        folder.mkdir(parents=True, exist_ok=True)

    def loss(self, step: int) -> torch.Tensor:
        """The training loss of a step's batch under that step's noise."""
        config, mask_id = self.config, self.model.config.mask_token_id
        tokens, maskable = self.batches.batch(step)
        draw, draws = self.batches.noise(step, tokens.shape)
        t = low_discrepancy_times(draw, tokens.shape[0])
        process = forward_process_counted if config.counted_masks else forward_process
        noised = process(tokens, t, draws, mask_id=mask_id, maskable=maskable)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
            logits = self.model(noised.tokens, noised.masked)
        return sft_loss(logits, tokens, noised, maskable)

    def train_step(self) -> float:
        factor = learning_rate_factor(self.config, self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
        loss = self.loss(self.step)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.average is not None:
            decay = min(self.config.ema, self.step / (self.step + 10))  # early on, a short memory
            with torch.no_grad():
                for name, value in self.model.state_dict().items():
                    self.average[name].lerp_(value, 1 - decay)
        return loss.item()

    def run(self, stop: int | None = None) -> Iterator[dict[str, float]]:
        """Train up to step `stop` (default: the end of the schedule), yielding a record every `log_every` steps."""
        config, stop = self.config, self.config.steps if stop is None else stop
        self.model.train()
        losses, began = [], time.monotonic()
        while self.step < stop:
            losses.append(self.train_step())
            if self.step % config.log_every == 0 or self.step == stop:
                seconds = time.monotonic() - began
                record = {
                    "step": self.step,
                    "loss": sum(losses) / len(losses),
                    "lr_factor": learning_rate_factor(config, self.step - 1),
                    "step_s": seconds / len(losses),
                }
                with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
                losses, began = [], time.monotonic()
                yield record
                began = time.monotonic()  # what the caller did meanwhile is not training time
            if self.step % config.checkpoint_every == 0 or self.step == stop:
                self.save()

    def save(self) -> None:
        """Write checkpoint.pt in one move, so that a cut never leaves half a file."""
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        scratch = self.folder / "checkpoint.pt.partial"
        torch.save(state, scratch)
        os.replace(scratch, self.folder / "checkpoint.pt")

    def resume(self) -> bool:
        """Load checkpoint.pt of the folder if it is there."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return True

    def final_weights(self) -> dict[str, torch.Tensor]:
        """What is exported: the averaged weights if there are any."""
        return self.average if self.average is not None else self.model.state_dict()
