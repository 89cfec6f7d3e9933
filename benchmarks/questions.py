"""What the compared systems are asked: questions of the trained pairs, with what is right, and work of a fixed size."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import Tokenizer

from benchmarks.baselines.contract import Answer, Question
from benchmarks.shapes import Shape
from llada_rt.config import DEMO_DIR
from training.tasks.items import Item
from training.tasks.verse import RECITE_LENGTH, VerseBook, line_items
from training.tokenization import EOS_TOKEN, EOT_TOKEN, token_id

PAIRS_DIR = Path(__file__).parent / "pair"
VERSE_CHARS = 64  # the poems of at most so many characters are those that both models have learnt
LINE_LENGTH = 16  # positions for a line and its end


@dataclass(frozen=True)
class Pair:
    """A masked model, its autoregressive twin, and questions that both can be asked."""

    name: str
    about: str
    mdm: Path
    arm: Path
    items: tuple[Item, ...]
    tokenizer: Tokenizer

    def some(self, count: int) -> "Pair":
        """The same pair with fewer questions, spread over all."""
        return replace(self, items=_spread(self.items, count))

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return tuple(token_id(self.tokenizer, token) for token in (EOS_TOKEN, EOT_TOKEN))

    @property
    def questions(self) -> list[Question]:
        return [Question(item.canvas[: item.start], len(item.canvas) - item.start) for item in self.items]

    def judge(self, answers: Sequence[Answer]) -> int:
        """How many answers are right: all of the text, exactly. One for each question, in order."""
        texts = (self.tokenizer.decode(list(answer.tokens), skip_special_tokens=False).strip() for answer in answers)
        return sum(item.accepts(text) for item, text in zip(self.items, texts, strict=True))


def verse_pair(num_questions: int) -> Pair:
    """The next line, in the paper's wording; questions spread over all 322 poems."""
    tokenizer = Tokenizer.from_file(str(DEMO_DIR / "tokenizer.json"))
    book = VerseBook.select(max_chars=VERSE_CHARS)
    items = line_items(book, tokenizer, "next_line", gen_length=LINE_LENGTH)
    about = "the next line of a poem learnt by heart"
    return Pair("verse", about, DEMO_DIR, PAIRS_DIR / "verse_arm", _spread(items, num_questions), tokenizer)


def poems_pair(num_questions: int) -> Pair:
    """Whole poems by title and author: what the ARM of the same two models does better."""
    tokenizer = Tokenizer.from_file(str(DEMO_DIR / "tokenizer.json"))
    book = VerseBook.select(max_chars=VERSE_CHARS)
    items = line_items(book, tokenizer, "recite", gen_length=RECITE_LENGTH)
    about = "whole poems by title, the same models as verse"
    return Pair("poems", about, DEMO_DIR, PAIRS_DIR / "verse_arm", _spread(items, num_questions), tokenizer)


def sudoku_pair(num_questions: int) -> Pair:
    """4x4 puzzles of solutions that no training row had."""
    from training.evaluation import load_items  # which needs torch

    folders = [PAIRS_DIR / f"sudoku_{kind}" for kind in ("mdm", "arm")]
    tokenizer = Tokenizer.from_file(str(folders[0] / "tokenizer.json"))
    items, _ = load_items("sudoku4", tokenizer, num=num_questions, seed=1, chat=False, gen_length=None)
    return Pair("sudoku", "4x4 sudokus of unseen solutions", folders[0], folders[1], tuple(items), tokenizer)


PAIRS = {"verse": verse_pair, "sudoku": sudoku_pair, "poems": poems_pair}


def _spread(items: Sequence[Item], count: int) -> tuple[Item, ...]:
    count = min(count, len(items))
    return tuple(items[index * len(items) // count] for index in range(count))


def fixed_questions(shape: Shape, *, prompt_length: int, num_tokens: int, count: int, seed: int = 0) -> list[Question]:
    """Random prompts, none of the tokens special; every answer takes `num_tokens`."""
    choice = random.Random(seed)
    return [
        Question(tuple(choice.randrange(shape.vocab_size - 2) for _ in range(prompt_length)), num_tokens)
        for _ in range(count)
    ]
