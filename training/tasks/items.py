"""Questions as they are put to a model, and what its answers were worth."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tokenizers import Tokenizer

from training.rows import DataError, Example, RowConfig, RowEncoder
from training.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Item:
    """One question. `canvas` is what the sampler starts from: the tokens given, and mask tokens to be filled."""

    task: str
    canvas: tuple[int, ...]
    start: int  # where the answer begins: length of the prompt; 0 for a template with holes
    accepted: frozenset[str]  # right answers as text; with `check`, one of them
    check: Callable[[str], bool] | None = None  # where not all right answers can be listed

    def accepts(self, answer: str) -> bool:
        return self.check(answer) if self.check is not None else answer in self.accepted


Sampler = Callable[[Sequence[Item]], list[list[int]]]  # filled canvases, in the order of the items


class Tally(NamedTuple):
    """Answers to the questions of one task."""

    right: int
    asked: int

    @property
    def share(self) -> float:
        return self.right / self.asked

    @property
    def standard_error(self) -> float:
        """The standard error of the share, as an estimate of the share of all such questions."""
        return (self.share * (1 - self.share) / self.asked) ** 0.5


def encode_rows(
    rows: Iterable[tuple[str, Mapping[str, object]]], source: Tokenizer | Vocabulary, config: RowConfig
) -> list[Example]:
    """(place, record) -> tokens of prompt and answer: the last reply of a dialogue, the better answer of a pair."""
    encoder = RowEncoder(source, config)
    examples = []
    for place, record in rows:
        row = encoder.encode(record, place)
        assert row is not None  # nothing is dropped without a length
        examples.append(row.examples[0 if "chosen" in record else -1])
    return examples


def make_items(
    task: str,
    rows: Sequence[tuple[str, Mapping[str, str]]],
    source: Tokenizer | Vocabulary,
    config: RowConfig,
    *,
    gen_length: int | None = None,
    check: Callable[[Mapping[str, str], str], bool] | None = None,
) -> list[Item]:
    """A question for each row. gen_length: positions for an answer; default: what the longest one and its end need."""
    vocabulary = Vocabulary.of(source)
    tokenizer, mask_id = vocabulary.tokenizer, vocabulary.mask_id
    examples = encode_rows(rows, vocabulary, config)
    answers = [len(example.answer) for example in examples if example.holes is None]
    length = gen_length or max(answers, default=0)
    items = []
    for (place, row), example in zip(rows, examples, strict=True):
        if "text" in row:
            raise DataError(f"{place}: a text asks nothing; expected a prompt and an answer, or a template")
        if example.holes is not None:
            canvas = tuple(mask_id if i in example.holes else token for i, token in enumerate(example.answer))
        elif len(example.answer) > length:
            raise DataError(
                f"{place}: the answer fills the canvas: it and its end take {len(example.answer)} tokens, "
                f"gen_length is {length}"
            )
        else:
            canvas = (*example.prompt, *[mask_id] * length)
        right = tokenizer.decode(list(example.answer), skip_special_tokens=True).strip()
        own = None if check is None else lambda answer, row=row: check(row, answer)
        items.append(Item(task, canvas, len(example.prompt), frozenset([right]), own))
    return items


def answer_text(source: Tokenizer | Vocabulary, item: Item, canvas: Sequence[int]) -> str:
    """The answer in a filled canvas: up to the first end token, without outer white space."""
    vocabulary = Vocabulary.of(source)
    answer, ends = list(canvas[item.start :]), vocabulary.end_ids
    stop = next((i for i, token in enumerate(answer) if token in ends), len(answer))
    return vocabulary.tokenizer.decode(answer[:stop], skip_special_tokens=False).strip()


def ask(items: Sequence[Item], source: Tokenizer | Vocabulary, sampler: Sampler) -> dict[str, Tally]:
    """How many items of each task are answered right. The same code serves every sampler."""
    vocabulary = Vocabulary.of(source)
    right: dict[str, int] = defaultdict(int)
    asked: dict[str, int] = defaultdict(int)
    for item, canvas in zip(items, sampler(items), strict=True):
        asked[item.task] += 1
        right[item.task] += item.accepts(answer_text(vocabulary, item, canvas))
    return {task: Tally(right[task], asked[task]) for task in asked}
