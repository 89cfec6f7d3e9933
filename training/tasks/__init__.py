"""Tasks: each module makes rows by itself, from a seed, and knows what counts as a right answer.

    python -m training.tasks sudoku4 --out data/sudoku4 --train 50000 --test 500

A row is a record as training/rows.py reads it. What two rows share if knowing one gives the other away is their key
(the solved grid of a sudoku, the numbers of a sum); a hash of the key puts every row on one side, training or test, so
the two never meet, whatever the seeds and the numbers.
"""

import hashlib
import importlib
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Record = dict[str, str]
Split = Literal["train", "test"]

HELD_OUT = 0.1  # share of the keys that only tests may use
MAX_MISSES = 10_000  # draws in a row without a new row: the task has no more of them

# name -> module : attribute. A new task is a file here and a line here.
_PLACES = {
    "addition": "arithmetic:ADDITION",
    "multiplication": "arithmetic:MULTIPLICATION",
    "copy": "strings:COPY",
    "sort": "strings:SORT",
    "countdown": "countdown:COUNTDOWN",
    "sudoku4": "sudoku:SUDOKU4",
    "sudoku4_infill": "sudoku:SUDOKU4_INFILL",
    "sudoku6": "sudoku:SUDOKU6",
    "sudoku6_infill": "sudoku:SUDOKU6_INFILL",
    "sudoku9": "sudoku:SUDOKU9",
    "sudoku9_infill": "sudoku:SUDOKU9_INFILL",
    "facts_infill": "stories:FACTS_INFILL",
    "stories": "stories:STORIES",
    "stories_infill": "stories:STORIES_INFILL",
    "stories_lessons": "stories:STORIES_LESSONS",
}
TASK_NAMES = tuple(_PLACES)


@dataclass(frozen=True, slots=True)
class Task:
    """`draw(rng, belongs)` makes one random row, or None once `belongs(key)` says that it is for the other side."""

    name: str
    about: str  # one line
    draw: Callable[[random.Random, Callable[[str], bool]], Record | None]
    check: Callable[[Mapping[str, str], str], bool]  # (row, answer of a model) -> right
    texts: tuple[str, ...]  # every character that a row may have, for a tokenizer of characters
    phrases: tuple[str, ...] = ()  # what such a tokenizer makes one token of

    def generate(self, seed: int, num: int, split: Split = "train") -> list[Record]:
        """`num` distinct rows of one side; the first rows of a larger number are those of a smaller one."""
        if split not in ("train", "test"):
            raise ValueError(f"split: expected 'train' or 'test', got {split!r}")
        rng = random.Random(f"{self.name}/{split}/{seed}")
        rows: dict[tuple[str, ...], Record] = {}
        misses = 0
        while len(rows) < num:
            row = self.draw(rng, lambda key: is_held_out(key) == (split == "test"))
            if row is not None and tuple(row.values()) not in rows:
                rows[tuple(row.values())] = row
                misses = 0
            elif (misses := misses + 1) >= MAX_MISSES:
                raise ValueError(f"{self.name} has about {len(rows)} different {split} rows, asked for {num}")
        return list(rows.values())


def is_held_out(key: str) -> bool:
    """Whether rows of this key are for tests only."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) < HELD_OUT * 2**64


def exact_match(row: Mapping[str, str], answer: str) -> bool:
    """The check of a task with one right answer; outer white space does not count."""
    return answer.strip() == row["answer"].strip()


def find_task(name: str) -> Task:
    """A task by its name. ValueError names those that exist."""
    if name not in _PLACES:
        raise ValueError(f"task: expected one of {list(TASK_NAMES)}, got {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(importlib.import_module(f"training.tasks.{module}"), attribute)


def characters(texts: Iterable[str]) -> tuple[str, ...]:
    """Their characters, each once."""
    return tuple(sorted({char for text in texts for char in text}))
