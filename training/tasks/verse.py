"""Verse by heart: the corpus, the questions asked about it, and what counts as a right answer.

A masked model that has learnt a poem can be entered from any side: the next line, the line before, a poem with
holes, a poem of which only the first character of each line is known, a poem asked for by title. The question
wording of the first two is that of LLaDA's reversal test (arXiv 2502.09992, poem completion).
"""

import hashlib
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from training.tasks.items import Item
from training.tokenization import MASK_TOKEN, encode_chat, token_id

VERSE_FILE = Path(__file__).with_name("verse.jsonl")  # 300 Tang poems, 300 ci
SONNETS_FILE = Path(__file__).with_name("sonnets.jsonl")  # Shakespeare's, in the same form
STOPS = "，。！？；"  # a line of verse ends at one of these; 、 stays inside the line

WORDINGS = (
    "",
    ", short",
    ", English",
)  # what a task's name gets for each wording: the paper's, its short form, English
QUESTIONS = {
    "next_line": (
        "{line}的下一句是什么？ 直接输出句子即可。",
        "{line}的下一句是什么？",
        'What line comes after "{line}"?',
    ),
    "previous_line": (
        "{line}的上一句是什么？ 直接输出句子即可。",
        "{line}的上一句是什么？",
        'What line comes before "{line}"?',
    ),
    "recite": ("背诵{author}的《{title}》。", "背诵《{title}》。", 'Recite "{title}" by {author}.'),
}
# Fixed words of the questions: one token each in the demo's tokenizer (see training/tokenization.py).
PHRASES = (
    "的下一句是什么？",
    "的上一句是什么？",
    " 直接输出句子即可。",
    'What line comes after "',
    'What line comes before "',
    '"?',
    "背诵",
    "的《",
    "》。",
    'Recite "',
    '" by ',
)
HOLE_SHARE = 0.3  # of a poem's characters, in the holes task
RECITE_LENGTH = 72  # answer tokens when a whole poem is asked for


@dataclass(frozen=True, slots=True)
class Poem:
    title: str
    author: str
    form: str
    lines: tuple[str, ...]  # each with its closing punctuation
    source: str

    @property
    def text(self) -> str:
        return "".join(self.lines)

    @property
    def bare_lines(self) -> list[str]:
        return [line.rstrip(STOPS) for line in self.lines]


def split_lines(text: str) -> list[str]:
    """ "春眠不觉晓，处处闻啼鸟。" -> ["春眠不觉晓，", "处处闻啼鸟。"]"""
    return [line for line in re.findall(rf"[^{STOPS}]*[{STOPS}]|[^{STOPS}]+$", text) if line.strip(STOPS)]


def read_poems(path: Path = VERSE_FILE) -> list[Poem]:
    rows = [json.loads(row) for row in path.read_text(encoding="utf-8").splitlines()]
    return [Poem(row["title"], row["author"], row["form"], tuple(row["lines"]), row["source"]) for row in rows]


def data_hash(path: Path = VERSE_FILE) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class VerseBook:
    """The poems a model is to know, and the questions about them."""

    poems: tuple[Poem, ...]

    @classmethod
    def select(cls, *, max_chars: int, path: Path = VERSE_FILE) -> "VerseBook":
        """All poems of at most `max_chars` characters, punctuation included."""
        return cls(tuple(poem for poem in read_poems(path) if len(poem.text) <= max_chars))

    @property
    def num_chars(self) -> int:
        return sum(len(poem.text) for poem in self.poems)

    @property
    def data_hash(self) -> str:
        """sha256 of the poems themselves."""
        return hashlib.sha256(repr(self.poems).encode()).hexdigest()

    @cached_property
    def next_lines(self) -> dict[str, frozenset[str]]:
        """Line -> every line that follows it somewhere in the book. Any of them is a right answer."""
        return self._neighbours(1)

    @cached_property
    def previous_lines(self) -> dict[str, frozenset[str]]:
        return self._neighbours(-1)

    def _neighbours(self, step: int) -> dict[str, frozenset[str]]:
        found = defaultdict(set)
        for poem in self.poems:
            lines = poem.bare_lines
            for line, neighbour in zip(lines[::step], lines[::step][1:], strict=False):
                found[line].add(neighbour)
        return {line: frozenset(answers) for line, answers in found.items()}

    def dialogues(self, task: str) -> list[tuple[tuple[str, ...], str, frozenset[str]]]:
        """(every wording of the question, one right answer, all right answers), for training and evaluation.

        A line with several true neighbours gives one row for each, in the book's order.
        """
        if task == "recite":
            rows = []
            for poem in self.poems:
                asked = tuple(form.format(title=poem.title, author=poem.author) for form in QUESTIONS[task])
                rows.append((asked, poem.text, frozenset([poem.text])))
            return rows
        table = {"next_line": self.next_lines, "previous_line": self.previous_lines}[task]
        return [
            (tuple(form.format(line=line) for form in QUESTIONS[task]), answer, accepted)
            for line, accepted in table.items()
            for answer in sorted(accepted)
        ]


def line_items(book: VerseBook, tokenizer: Tokenizer, task: str, *, gen_length: int, wording: int = 0) -> list[Item]:
    """`next_line`, `previous_line` or `recite` as chat prompts followed by `gen_length` masks; one item a question."""
    mask_id = token_id(tokenizer, MASK_TOKEN)
    items = {}
    for asked, _, accepted in book.dialogues(task):
        prompt = encode_chat(tokenizer, [{"role": "user", "content": asked[wording]}], add_generation_prompt=True)
        items[asked[wording]] = Item(
            task + WORDINGS[wording], (*prompt, *[mask_id] * gen_length), len(prompt), accepted
        )
    return list(items.values())


def hole_items(book: VerseBook, tokenizer: Tokenizer, *, seed: int = 0, share: float = HOLE_SHARE) -> list[Item]:
    """Each poem's plain text with round(`share`) of its tokens masked, punctuation included."""
    mask_id = token_id(tokenizer, MASK_TOKEN)
    items = []
    for index, poem in enumerate(book.poems):
        tokens = tokenizer.encode(poem.text, add_special_tokens=False).ids
        draw = np.random.Generator(np.random.Philox(key=seed, counter=[index, 0, 0, 0])).random(len(tokens))
        holes = set(np.argsort(draw)[: round(share * len(tokens))].tolist())
        canvas = tuple(mask_id if i in holes else token for i, token in enumerate(tokens))
        items.append(Item("holes", canvas, 0, frozenset([poem.text])))
    return items


def acrostic_items(book: VerseBook, tokenizer: Tokenizer) -> list[Item]:
    """Only the first character of each line and the punctuation are given. Right: any poem with that skeleton."""
    mask_id = token_id(tokenizer, MASK_TOKEN)

    def skeleton(poem: Poem) -> str:
        bare = zip(poem.bare_lines, poem.lines, strict=True)
        return "".join(line[0] + "_" * (len(line) - 1) + whole[len(line) :] for line, whole in bare)

    poems_of = defaultdict(set)
    for poem in book.poems:
        poems_of[skeleton(poem)].add(poem.text)
    items = []
    for shape, texts in poems_of.items():
        tokens = tokenizer.encode(min(texts), add_special_tokens=False).ids
        canvas = tuple(mask_id if char == "_" else token for char, token in zip(shape, tokens, strict=True))
        items.append(Item("acrostic", canvas, 0, frozenset(texts)))
    return items


def verse_items(book: VerseBook, tokenizer: Tokenizer, *, gen_length: int) -> list[Item]:
    """Every question of the book in the paper's wording and in English, every poem with holes and as an acrostic."""
    return [
        *line_items(book, tokenizer, "next_line", gen_length=gen_length),
        *line_items(book, tokenizer, "previous_line", gen_length=gen_length),
        *hole_items(book, tokenizer),
        *acrostic_items(book, tokenizer),
        *line_items(book, tokenizer, "recite", gen_length=RECITE_LENGTH),
        *line_items(book, tokenizer, "next_line", gen_length=gen_length, wording=2),
        *line_items(book, tokenizer, "previous_line", gen_length=gen_length, wording=2),
    ]
