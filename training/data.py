"""Batches: which rows a step trains on, and the random numbers that hide them.

A batch is a pure function of (seed, step): order, padding, wording and noise come from a counter generator, keyed by
the place of a row in the global batch and never by the rank that works on it. So nothing about the data needs saving,
a resumed run sees exactly the batches it would have seen, and the number of ranks changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from training.masking import low_discrepancy_times
from training.store import TokenStore

# Streams of the counter generator, so that two uses of one (seed, step) never share numbers.
BATCH_STREAM, TIME_STREAM, MASK_STREAM, ORDER_STREAM, CHOICE_STREAM = 0, 1, 2, 3, 4


def generator(seed: int, stream: int, step: int, sample: int = 0) -> np.random.Generator:
    """Philox keyed by the seed, counting from (stream, step, sample): the same numbers wherever they are asked for."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, sample, step, stream]))


class Batch(NamedTuple):
    """Some rows of a step's global batch, on the CPU. All parts of a step have the same length."""

    tokens: Tensor  # (rows, length) int64, padded with EOS
    maskable: Tensor  # (rows, length) bool: answer and padding; of a template, its holes
    draws: Tensor  # (rows, length) float32 in [0, 1): which tokens are hidden
    times: Tensor  # (rows,) float32 in [0, 1): t of each row
    sample_ids: Tensor  # (rows,) int64: which row of the data this is


Part = TypeVar("Part", covariant=True)  # the kind of batch that a source makes


class Batches(Protocol[Part]):
    """A source of batches. Everything is a pure function of its arguments."""

    @property
    def data_hash(self) -> str:
        """sha256 of what was tokenised and of the tokenizer: a run resumes only on the data it began with."""
        ...

    def num_rows(self, step: int) -> int:
        """Rows of the global batch of that step; the last one of an epoch may have fewer."""
        ...

    def part(self, step: int, rows: range) -> Part:
        """Those rows of the global batch."""
        ...


@dataclass(frozen=True, slots=True)
class Noise:
    """The random numbers of a batch.

    even_times: the times of a global batch lie at equal distances from one random start (each alone is uniform,
    together they have less variance); otherwise each is drawn by itself, as LLaDA's guidelines do. min_time: the
    smallest of them; from 0 on the loss is the bound, above it is one with less variance that shows more masks.
    """

    seed: int
    even_times: bool = True
    min_time: float = 0.0

    def times(self, step: int, num_rows: int, rows: range) -> Tensor:
        """(len(rows),) float32."""
        rng = generator(self.seed, TIME_STREAM, step)
        if self.even_times:
            drawn = low_discrepancy_times(float(rng.random()), num_rows)[rows.start : rows.stop].numpy()
        else:
            drawn = rng.random(num_rows)[rows.start : rows.stop]
        return torch.from_numpy(_below_one(drawn if not self.min_time else self.min_time + (1 - self.min_time) * drawn))

    def draws(self, step: int, rows: range, length: int) -> Tensor:
        """(len(rows), length) float32. A row's numbers depend neither on how many rows there are nor on its length."""
        drawn = [generator(self.seed, MASK_STREAM, step, sample).random(length) for sample in rows]
        return torch.from_numpy(_below_one(np.stack(drawn) if drawn else np.empty((0, length))))


def _below_one(draws: np.ndarray) -> np.ndarray:
    """float32 in [0, 1): rounding a float64 just below one must not give one."""
    return np.minimum(draws.astype(np.float32), np.float32(1 - 2**-24))


def check_rows(rows: range, num_rows: int) -> range:
    """`rows`, if they are rows of a global batch of `num_rows`; else ValueError."""
    if rows.step != 1 or not 0 <= rows.start <= rows.stop <= num_rows:
        raise ValueError(f"rows: expected a range within 0..{num_rows}, got {rows}")
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """How rows or windows become batches."""

    batch_rows: int = 64  # rows of a global batch
    even_times: bool = True  # times of a batch at equal distances (less variance); false: each by itself
    min_time: float = 0.0  # smallest t; above 0 more is hidden, with less variance, and the loss is no bound any more
    pads: Sequence[int] = (0,)  # EOS tokens after the longest row of a batch, drawn evenly; rows only
    same_length: bool = False  # only rows of one length in a batch, so that no row is padded; rows only
    random_length_share: float = 0.01  # of the steps, windows cut to a random length, as LLaDA's; packed text only

    def __post_init__(self) -> None:
        if self.batch_rows < 1:
            raise ValueError(f"batch_rows: expected at least 1, got {self.batch_rows}")
        if not self.pads or min(self.pads) < 0:
            raise ValueError(f"pads: expected numbers from 0, at least one, got {list(self.pads)}")
        if not 0 <= self.min_time <= 1:
            raise ValueError(f"min_time: expected 0..1, got {self.min_time}")
        if not 0 <= self.random_length_share <= 1:
            raise ValueError(f"random_length_share: expected 0..1, got {self.random_length_share}")


class RowVisits:
    """Which rows of a store each step trains on.

    An epoch visits every row once, in an order drawn anew; its last batch may be short.
    """

    def __init__(self, store: TokenStore, config: BatchConfig, *, seed: int, eos_id: int) -> None:
        if not len(store):
            raise ValueError("the data has no rows")
        self.store, self.config, self.seed, self.eos_id = store, config, seed, eos_id
        self.noise = Noise(seed, config.even_times, config.min_time)
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    @property
    def data_hash(self) -> str:
        return self.store.data_hash

    @property
    def steps_per_epoch(self) -> int:
        return len(self._batches_of(0))

    def num_rows(self, step: int) -> int:
        return len(self._chosen(step))

    def _chosen(self, step: int) -> np.ndarray:
        """Row numbers of the global batch of a step."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return self._batches_of(epoch)[index]

    def _batches_of(self, epoch: int) -> list[np.ndarray]:
        """The row numbers of each batch of an epoch; the number of batches is the same in every epoch."""
        if self._epoch[0] != epoch:
            rng, size = generator(self.seed, ORDER_STREAM, epoch), self.config.batch_rows
            order = rng.permutation(len(self.store))
            if not self.config.same_length:
                batches = [order[begin : begin + size] for begin in range(0, len(order), size)]
            else:
                lengths = self.store.row_lengths()[order]
                groups = [order[lengths == length] for length in np.unique(lengths)]
                batches = [group[begin : begin + size] for group in groups for begin in range(0, len(group), size)]
                batches = [batches[index] for index in rng.permutation(len(batches))]
            self._epoch = (epoch, batches)
        return self._epoch[1]


class RowBatches(RowVisits):
    """Rows of a store (questions and answers, dialogues, templates), padded with EOS to the longest of the batch.

    Each visit of a row with several examples (the replies of a dialogue) draws one. Padding after an answer may be
    hidden and counts in the loss, as LLaDA's fine-tuning has it; padding after a template may not: nothing there was
    asked for.
    """

    def part(self, step: int, rows: range) -> Batch:
        chosen = self._chosen(step)
        count = len(check_rows(rows, len(chosen)))
        # The whole global batch decides the length, so that every part has it.
        rng = generator(self.seed, CHOICE_STREAM, step)
        picks = rng.random(len(chosen))
        examples = self.store.pick(chosen, picks)  # (rows of the global batch,)
        length = int(np.max(self.store.lengths(examples))) + int(rng.choice(self.config.pads))
        tokens = np.full((count, length), self.eos_id, dtype=np.int64)
        maskable = np.ones((count, length), dtype=bool)
        for place, example in enumerate(examples[rows.start : rows.stop]):
            ids, hidden = self.store.example(example)
            tokens[place, : len(ids)] = ids
            maskable[place, : len(ids)] = hidden
            if self.store.is_template(example):
                maskable[place, len(ids) :] = False
        return Batch(
            torch.from_numpy(tokens),
            torch.from_numpy(maskable),
            self.noise.draws(step, rows, length),
            self.noise.times(step, len(chosen), rows),
            torch.from_numpy(chosen[rows.start : rows.stop].astype(np.int64)),
        )


class PackedBatches:
    """Windows of equal length cut from all documents, one after another with EOS between, read as a ring.

    Every epoch cuts at another place and visits the windows in another order. On `random_length_share` of the steps
    the whole batch is cut to a length drawn from 1..window, as LLaDA's guidelines do for one per cent of the data.
    """

    def __init__(self, store: TokenStore, config: BatchConfig, *, window: int, seed: int) -> None:
        if window < 2:
            raise ValueError(f"window: expected at least 2 tokens, got {window}")
        if store.num_tokens < window:
            raise ValueError(f"the corpus has {store.num_tokens} tokens, fewer than one window of {window}")
        self.store, self.config, self.window, self.seed = store, config, window, seed
        self.noise = Noise(seed, config.even_times, config.min_time)
        self.num_windows = store.num_tokens // window
        self.steps_per_epoch = -(-self.num_windows // config.batch_rows)
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0))

    @property
    def data_hash(self) -> str:
        return self.store.data_hash

    def num_rows(self, step: int) -> int:
        first = step % self.steps_per_epoch * self.config.batch_rows
        return min(self.config.batch_rows, self.num_windows - first)

    def part(self, step: int, rows: range) -> Batch:
        num_rows = self.num_rows(step)
        check_rows(rows, num_rows)
        length = self._length(step)
        starts = self._starts(step // self.steps_per_epoch)
        first = step % self.steps_per_epoch * self.config.batch_rows
        chosen = starts[first + rows.start : first + rows.stop]
        places = (chosen[:, None] + np.arange(length)) % self.store.num_tokens  # (rows, length)
        tokens = torch.from_numpy(self.store.tokens[places].astype(np.int64))
        return Batch(
            tokens,
            torch.ones_like(tokens, dtype=torch.bool),
            self.noise.draws(step, rows, length),
            self.noise.times(step, num_rows, rows),
            torch.from_numpy(chosen),
        )

    def _length(self, step: int) -> int:
        rng = generator(self.seed, CHOICE_STREAM, step)
        if rng.random() < self.config.random_length_share:
            return int(rng.integers(1, self.window + 1))
        return self.window

    def _starts(self, epoch: int) -> np.ndarray:
        """(num_windows,) int64: where the windows of an epoch begin, in the order of their visit."""
        if self._epoch[0] != epoch:
            rng = generator(self.seed, ORDER_STREAM, epoch)
            shift = int(rng.integers(self.store.num_tokens))
            starts = (shift + rng.permutation(self.num_windows) * self.window) % self.store.num_tokens
            self._epoch = (epoch, starts.astype(np.int64))
        return self._epoch[1]
