"""Preference rows as batches: a question with a better and a worse answer, and the noise of their likelihood bounds.

log p(answer | question) of a masked diffusion model is known by a Monte-Carlo bound only. VRPO (LLaDA 1.5, arXiv
2505.19223) compares four such bounds a pair and keeps the variance of their difference low; PreferenceConfig holds its
three means, a bigger budget, one mask a time, and the same draws for policy and reference, and one more: even times.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.data import TIME_STREAM, BatchConfig, RowVisits, generator
from training.store import TokenStore

BETTER, WORSE = 0, 1  # place of an answer in its pair


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceConfig:
    """[preference] of a recipe; the defaults are LLaDA 1.5's, but for even times."""

    beta: float = 0.2  # how sharply a difference in log-likelihood, against the reference's, counts
    sft_weight: float = 0.05  # of the fine-tuning loss of the better answer, which keeps its likelihood up
    n_time: int = 8  # times drawn for each answer
    n_mask: int = 1  # masks drawn for each time; at a given budget n_time * n_mask, one is best
    shared_draws: bool = True  # policy and reference see the same noise, so that it cancels in their difference
    even_times: bool = True  # the times of an answer at equal distances; false: each drawn by itself

    def __post_init__(self) -> None:
        for name in ("n_time", "n_mask"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name, positive in (("beta", True), ("sft_weight", False)):
            value = getattr(self, name)
            if not 0 <= value < float("inf") or (positive and value == 0):
                raise ValueError(f"{name}: expected a {'positive ' if positive else ''}number, got {value}")

    @property
    def budget(self) -> int:
        """Noisy copies of each answer that one model runs."""
        return self.n_time * self.n_mask


class PairBatch(NamedTuple):
    """Some pairs of a step. The draws come first: their columns are the tokens that a forward pass takes a pair."""

    draws: Tensor  # (pairs, 2 * n_time * n_mask * length) float32 in [0, 1): which tokens are hidden from the policy
    times: Tensor  # (pairs, 2, n_time) float32 in [0, 1)
    reference_draws: Tensor  # the same for the reference: equal if the draws are shared
    reference_times: Tensor
    tokens: Tensor  # (pairs, 2, length) int64: the better answer and the worse, each after the question
    maskable: Tensor  # (pairs, 2, length) bool: the answer and its padding
    sample_ids: Tensor  # (pairs,) int64: which row of the data this is


class PairBatches(RowVisits):
    """Rows of a store with two examples each, the better and the worse answer to one question."""

    def __init__(
        self, store: TokenStore, config: BatchConfig, preference: PreferenceConfig, *, seed: int, eos_id: int
    ) -> None:
        super().__init__(store, config, seed=seed, eos_id=eos_id)
        self.preference = preference
        counts = np.diff(store.rows)
        if (counts != 2).any():
            row = int(np.argmax(counts != 2))
            raise ValueError(
                f"row {row} of the data: expected the keys prompt, chosen and rejected, "
                f"got something with {counts[row]} answers"
            )

    def part(self, step: int, rows: range) -> PairBatch:
        chosen = self._chosen(step)
        examples = self.store.rows[chosen][:, None] + np.arange(2)  # (pairs of the global batch, 2)
        pad = int(generator(self.seed, TIME_STREAM, step).choice(self.config.pads))
        length = int(np.max(self.store.lengths(examples.reshape(-1)))) + pad  # of every part
        own = chosen[rows.start : rows.stop]
        tokens = np.full((len(own), 2, length), self.eos_id, dtype=np.int64)
        maskable = np.ones((len(own), 2, length), dtype=bool)
        for place, pair in enumerate(examples[rows.start : rows.stop]):
            for answer, example in enumerate(pair):
                ids, hidden = self.store.example(example)
                tokens[place, answer, : len(ids)] = ids
                maskable[place, answer, : len(ids)] = hidden
        draws, times = self._noise(step, rows, length)
        return PairBatch(
            *(draws[:, 0], times[:, 0], draws[:, -1], times[:, -1]),
            *(torch.from_numpy(tokens), torch.from_numpy(maskable), torch.from_numpy(own.astype(np.int64))),
        )

    def _noise(self, step: int, rows: range, length: int) -> tuple[Tensor, Tensor]:
        """(rows, models, 2 n length) draws and (rows, models, 2, n_time) times; models: 1 if they share, else 2."""
        config = self.preference
        models = 1 if config.shared_draws else 2
        columns = models * 2 * config.budget * length
        draws = self.noise.draws(step, rows, columns).reshape(len(rows), models, columns // models)
        times = np.empty((len(rows), models, 2, config.n_time))
        for place, row in enumerate(rows):
            # Sample 0 of this stream is the batch's own.
            rng = generator(self.seed, TIME_STREAM, step, row + 1)
            if config.even_times:
                start = rng.random((models, 2, 1))
                times[place] = (start + np.arange(config.n_time) / config.n_time) % 1.0
            else:
                times[place] = rng.random((models, 2, config.n_time))
        return draws, torch.from_numpy(np.minimum(times.astype(np.float32), np.float32(1 - 2**-24)))
