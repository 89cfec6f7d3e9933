"""What test_distributed.py runs on several ranks and in one process:  -m tests.training.ranks FOLDER NAME ..."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.training.conftest import small_model
from training.config import TrainConfig
from training.data import Batch, Noise
from training.distributed import World, join
from training.lora import LoraConfig, add_adapters
from training.objectives import MaskedObjective, NextTokenObjective
from training.trainer import Trainer

# Micro-batches of 20 tokens are two rows of nine: parts of unequal size, and some without any row.
OPTIONS = {
    "adamw": {"matrix_lr": None, "weight_decay": 0.1},
    "muon": {"weight_decay": 0.1},
    "parts": {"micro_tokens": 20, "ema": 0.9, "activation_checkpointing": True},
    "tokens": {"normalisation": "tokens", "counted_masks": False},
    "arm": {"matrix_lr": None},
    "adapters": {"matrix_lr": None, "lr": 0.001},  # B begins at zero, so the first gradients of A are rounding
}


class UnevenBatches:
    """Seven rows, then three, then one: with two ranks there is no even step, and one where a rank has nothing."""

    data_hash = "uneven"
    sizes = (7, 3, 1, 8)

    def num_rows(self, step: int) -> int:
        return self.sizes[step % len(self.sizes)]

    def part(self, step: int, rows: range) -> Batch:
        length, num_rows = 9 + step % 3, self.num_rows(step)
        rng = np.random.Generator(np.random.Philox(key=[5, step]))
        tokens = torch.from_numpy(rng.integers(6, 40, (num_rows, length)))[rows.start : rows.stop]
        prompts = torch.from_numpy(rng.integers(0, 6, num_rows))[rows.start : rows.stop]
        maskable = torch.arange(length) >= prompts[:, None]
        noise = Noise(5)
        ids = torch.arange(rows.start, rows.stop)
        return Batch(tokens, maskable, noise.draws(step, rows, length), noise.times(step, num_rows, rows), ids)


def make_trainer(folder: Path, name: str, world: World, **changes) -> Trainer:
    options = {"seed": 5, "steps": 24, "lr": 0.01, "matrix_lr": 0.02, "warmup_steps": 3, "log_every": 1, "bf16": False}
    config = TrainConfig(**{**options, **OPTIONS[name], "checkpoint_every": 10, **changes})
    # 48 tokens keep the losses below 4, where float32 has steps of 2.4e-7.
    model = small_model(causal=name == "arm", weight_tying=name == "parts", n_heads=4, vocab_size=48)
    if name == "adapters":
        add_adapters(model, LoraConfig(rank=3), seed=1)
    normalisation = config.normalisation or "answers"
    masked = MaskedObjective(2, normalisation, config.counted_masks)
    objective = NextTokenObjective(1, normalisation) if name == "arm" else masked
    return Trainer(model, UnevenBatches(), objective, config, folder / name, world=world)


def run_steps(folder: Path, name: str, world: World, *, stop: int = 20, resume: bool = False) -> dict[str, Tensor]:
    """The weights after step `stop`."""
    trainer = make_trainer(folder, name, world)
    assert trainer.resume() == resume
    trainer.run(stop)
    return trainer.final_weights()


def main() -> None:
    """Twenty steps of each variant, the weights after them; then a new trainer goes on from the checkpoint."""
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    with join("cpu") as world:
        torch.set_num_threads(1)
        for name in names:
            weights = run_steps(folder, name, world)
            if world.is_first:
                torch.save(weights, folder / name / "weights.pt")
            run_steps(folder, name, world, stop=24, resume=True)


if __name__ == "__main__":
    main()
