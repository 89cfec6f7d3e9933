"""Copying and sorting letters: the smallest tasks that need the whole prompt."""

import random
import string
from collections.abc import Callable

from training.tasks import Record, Task, exact_match

MIN_LETTERS, MAX_LETTERS = 4, 12


def _draw(rng: random.Random, belongs: Callable[[str], bool], word: str) -> Record | None:
    letters = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(MIN_LETTERS, MAX_LETTERS)))
    answer = letters if word == "copy" else "".join(sorted(letters))
    return {"prompt": f"{word} {letters}=", "answer": answer} if belongs(letters) else None


TEXTS = (string.ascii_lowercase, " =")
COPY = Task("copy", "the same letters again", lambda rng, belongs: _draw(rng, belongs, "copy"), exact_match, TEXTS)
SORT = Task("sort", "letters in their order", lambda rng, belongs: _draw(rng, belongs, "sort"), exact_match, TEXTS)
