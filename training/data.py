"""Training rows and the batches made of them.

A batch is a pure function of (seed, step): the kind of row, the group of rows of like length, the rows in it and their
padding all come from a counter generator. So nothing about the data needs saving, and a resumed run sees exactly
the batches it would have seen.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from training.tasks.verse import VerseBook
from training.tokenizer import EOS_TOKEN, EOT_TOKEN, encode_chat

# Streams of the counter generator, so that two uses of one (seed, step) never share numbers.
BATCH_STREAM, TIME_STREAM, MASK_STREAM = 0, 1, 2
MAX_REPEATS = 16  # of a row in one batch, under different masks: a small group makes a small batch


def generator(seed: int, stream: int, step: int, sample: int = 0) -> np.random.Generator:
    """Philox keyed by the seed, counting from (stream, step, sample): the same numbers wherever they are asked for."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, sample, step, stream]))


@dataclass(frozen=True, slots=True)
class Row:
    """One training example. `variants`: token lists that say the same (wordings of a question), with their chances."""

    variants: tuple[tuple[int, ...], ...]  # prompts; ((),) for plain text
    answer: tuple[int, ...]  # what may be hidden; for plain text, all of it

    @property
    def max_length(self) -> int:
        return max(len(prompt) for prompt in self.variants) + len(self.answer)


class Batch(NamedTuple):
    tokens: Tensor  # (batch, length) int64, padded with EOS
    maskable: Tensor  # (batch, length) bool: answer and padding


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    max_chars: int  # poems of at most so many characters
    batch_tokens: int
    kinds: Mapping[str, float]  # share of the steps: plain, lines, recite
    pads: Mapping[str, Sequence[int]]  # EOS tokens after the longest row of a batch, drawn evenly, by kind
    wording_shares: Sequence[float] = (0.5, 0.25, 0.25)  # of a question: the paper's, the short form, English
    group_rows: int = 128  # rows of like length that a batch is drawn from
    exact_lengths: Sequence[str] = ()  # kinds whose groups hold rows of one length: no padding but what `pads` asks for


@dataclass(frozen=True)
class VerseBatches:
    """Batches of verse: plain poems, questions about lines, poems asked for by title."""

    config: DataConfig
    seed: int
    eos_id: int
    groups: Mapping[str, list[list[Row]]] = field(repr=False)  # kind -> groups of rows of like length

    @classmethod
    def build(cls, book: VerseBook, tokenizer: Tokenizer, config: DataConfig, seed: int) -> "VerseBatches":
        eot = tokenizer.token_to_id(EOT_TOKEN)

        def text(content: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(content, add_special_tokens=False).ids)

        def prompt(question: str) -> tuple[int, ...]:
            return tuple(encode_chat(tokenizer, [{"role": "user", "content": question}], add_generation_prompt=True))

        def dialogue(task: str) -> list[Row]:
            return [
                Row(tuple(prompt(question) for question in asked), (*text(answer), eot))
                for asked, answer, _ in book.dialogues(task)
            ]

        rows = {
            "plain": [Row(((),), text(poem.text)) for poem in book.poems],
            "lines": dialogue("next_line") + dialogue("previous_line"),
            "recite": dialogue("recite"),
        }
        unknown = set(config.kinds) - set(rows)
        if unknown:
            raise ValueError(f"data.kinds expected some of {sorted(rows)}, received {sorted(unknown)}")
        groups = {}
        for kind in config.kinds:
            by_length = sorted(rows[kind], key=lambda row: row.max_length)
            if kind in config.exact_lengths:
                groups[kind] = [list(group) for _, group in itertools.groupby(by_length, lambda row: row.max_length)]
            else:
                count = max(1, round(len(by_length) / config.group_rows))
                bounds = np.linspace(0, len(by_length), count + 1).round().astype(int)
                groups[kind] = [by_length[a:b] for a, b in itertools.pairwise(bounds)]
        return cls(config, seed, tokenizer.token_to_id(EOS_TOKEN), groups)

    def batch(self, step: int) -> Batch:
        config = self.config
        rng = generator(self.seed, BATCH_STREAM, step)
        shares = np.array(list(config.kinds.values()), dtype=np.float64)
        kind = list(config.kinds)[rng.choice(len(shares), p=shares / shares.sum())]
        sizes = np.array([len(group) for group in self.groups[kind]], dtype=np.float64)
        group = self.groups[kind][rng.choice(len(sizes), p=sizes / sizes.sum())]
        length = max(row.max_length for row in group) + int(rng.choice(config.pads[kind]))
        count = max(1, min(config.batch_tokens // length, MAX_REPEATS * len(group)))
        # Every row of the group once before any comes twice.
        order = np.concatenate([rng.permutation(len(group)) for _ in range(-(-count // len(group)))])[:count]
        tokens = np.full((count, length), self.eos_id, dtype=np.int64)
        maskable = np.ones((count, length), dtype=bool)
        for place, index in enumerate(order):
            row = group[index]
            choice = rng.choice(len(row.variants), p=config.wording_shares) if len(row.variants) > 1 else 0
            prompt = row.variants[choice]
            tokens[place, : len(prompt)] = prompt
            tokens[place, len(prompt) : len(prompt) + len(row.answer)] = row.answer
            maskable[place, : len(prompt)] = False
        return Batch(torch.from_numpy(tokens), torch.from_numpy(maskable))

    def noise(self, step: int, shape: torch.Size) -> tuple[float, Tensor]:
        """A draw for the times of the batch and (batch, length) draws for the masks, keyed by (seed, step, sample)."""
        time = float(generator(self.seed, TIME_STREAM, step).random())
        rows = [generator(self.seed, MASK_STREAM, step, sample).random(shape[1]) for sample in range(shape[0])]
        return time, torch.from_numpy(np.stack(rows)).float()
