"""Batches of the demo's verse: one kind of row in a batch, rows of like length, wordings drawn anew each step."""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer

from training.data import BATCH_STREAM, Batch, Noise, check_rows, generator
from training.tasks.verse import VerseBook
from training.tokenization import EOS_TOKEN, EOT_TOKEN, encode_chat, token_id, tokenizer_hash

MAX_REPEATS = 16  # of a row in one batch, under different masks: a small group makes a small batch


@dataclass(frozen=True, slots=True)
class VerseRow:
    """One training example. `variants`: prompts that say the same, wordings of one question."""

    variants: tuple[tuple[int, ...], ...]  # ((),) for plain text
    answer: tuple[int, ...]  # what may be hidden; for plain text, all of it

    @property
    def max_length(self) -> int:
        return max(len(prompt) for prompt in self.variants) + len(self.answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerseConfig:
    sha256: str | None = None  # of verse.jsonl: another file is refused
    max_chars: int  # poems of at most so many characters
    batch_tokens: int
    kinds: Mapping[str, float]  # share of the steps: plain, lines, recite
    pads: Mapping[str, Sequence[int]]  # EOS tokens after the longest row of a batch, drawn evenly, by kind
    wording_shares: Sequence[float] = (0.5, 0.25, 0.25)  # of a question: the paper's, the short form, English
    group_rows: int = 128  # rows of like length that a batch is drawn from
    exact_lengths: Sequence[str] = ()  # kinds whose groups hold rows of one length: no padding but what `pads` asks for


class Draw(NamedTuple):
    """What a step's first draws decide; `rng` goes on with the rows themselves."""

    rng: np.random.Generator
    kind: str
    group: int
    length: int
    num_rows: int


@dataclass(frozen=True)
class VerseBatches:
    """Batches of verse: plain poems, questions about lines, poems asked for by title."""

    config: VerseConfig
    seed: int
    eos_id: int
    data_hash: str
    groups: Mapping[str, list[list[VerseRow]]] = field(repr=False)  # kind -> groups of rows of like length

    @classmethod
    def build(cls, book: VerseBook, tokenizer: Tokenizer, config: VerseConfig, seed: int) -> "VerseBatches":
        eot = token_id(tokenizer, EOT_TOKEN)

        def text(content: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(content, add_special_tokens=False).ids)

        def prompt(question: str) -> tuple[int, ...]:
            return tuple(encode_chat(tokenizer, [{"role": "user", "content": question}], add_generation_prompt=True))

        def dialogue(task: str) -> list[VerseRow]:
            return [
                VerseRow(tuple(prompt(question) for question in asked), (*text(answer), eot))
                for asked, answer, _ in book.dialogues(task)
            ]

        rows = {
            "plain": [VerseRow(((),), text(poem.text)) for poem in book.poems],
            "lines": dialogue("next_line") + dialogue("previous_line"),
            "recite": dialogue("recite"),
        }
        unknown = set(config.kinds) - set(rows)
        if unknown:
            raise ValueError(f"data.kinds: expected some of {sorted(rows)}, got {sorted(unknown)}")
        groups = {}
        for kind in config.kinds:
            by_length = sorted(rows[kind], key=lambda row: row.max_length)
            if kind in config.exact_lengths:
                groups[kind] = [list(group) for _, group in itertools.groupby(by_length, lambda row: row.max_length)]
            else:
                count = max(1, round(len(by_length) / config.group_rows))
                bounds = np.linspace(0, len(by_length), count + 1).round().astype(int)
                groups[kind] = [by_length[a:b] for a, b in itertools.pairwise(bounds)]
        digest = hashlib.sha256(f"{book.data_hash}\n{tokenizer_hash(tokenizer)}\n{config}".encode()).hexdigest()
        return cls(config, seed, token_id(tokenizer, EOS_TOKEN), digest, groups)

    def _draw(self, step: int) -> Draw:
        config = self.config
        rng = generator(self.seed, BATCH_STREAM, step)
        shares = np.array(list(config.kinds.values()), dtype=np.float64)
        kind = list(config.kinds)[rng.choice(len(shares), p=shares / shares.sum())]
        sizes = np.array([len(group) for group in self.groups[kind]], dtype=np.float64)
        number = int(rng.choice(len(sizes), p=sizes / sizes.sum()))
        group = self.groups[kind][number]
        length = max(row.max_length for row in group) + int(rng.choice(config.pads[kind]))
        count = max(1, min(config.batch_tokens // length, MAX_REPEATS * len(group)))
        return Draw(rng, kind, number, length, count)

    def num_rows(self, step: int) -> int:
        return self._draw(step).num_rows

    def part(self, step: int, rows: range) -> Batch:
        config, (rng, kind, number, length, count) = self.config, self._draw(step)
        group = self.groups[kind][number]
        check_rows(rows, count)
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
        noise, chosen = Noise(self.seed), slice(rows.start, rows.stop)
        first = sum(len(earlier) for earlier in self._groups_before(kind, number))
        return Batch(
            torch.from_numpy(tokens[chosen]),
            torch.from_numpy(maskable[chosen]),
            noise.draws(step, rows, length),
            noise.times(step, count, rows),
            torch.from_numpy(first + order[chosen]),
        )

    def _groups_before(self, kind: str, number: int) -> list[list[VerseRow]]:
        kinds = list(self.groups)
        earlier = [group for name in kinds[: kinds.index(kind)] for group in self.groups[name]]
        return earlier + self.groups[kind][:number]
