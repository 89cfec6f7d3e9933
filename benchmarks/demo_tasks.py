"""The demo model's tasks as requests: next lines, poems with hidden characters, acrostics, whole poems by title."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from tokenizers import Tokenizer

from llada_rt import CompletionOutput, Engine, SamplingParams
from training.tasks.verse import Item, VerseBook, acrostic_items, hole_items, line_items

TASKS = ("next_line", "holes", "acrostic", "recite")


def questions(tokenizer: Tokenizer, every: int) -> list[Item]:
    book = VerseBook.select(max_chars=64)
    kinds = [
        line_items(book, tokenizer, "next_line", gen_length=16),
        hole_items(book, tokenizer),
        acrostic_items(book, tokenizer),
        line_items(book, tokenizer, "recite", gen_length=72),
    ]
    return [item for items in kinds for item in items[::every]]


def prompt_of(item: Item, mask_id: int) -> dict[str, Any]:
    """A chat answer is generated after its prompt, a template is infilled."""
    if item.start:
        return {"prompt_token_ids": list(item.canvas[: item.start])}
    runs = groupby(item.canvas, key=lambda token: token == mask_id)
    return {"segments": [len(list(run)) if hidden else list(run) for hidden, run in runs]}


def params_of(item: Item, block_length: int, options: Mapping[str, Any]) -> SamplingParams:
    length = len(item.canvas) - item.start
    blocks: dict[str, Any] = {"gen_length": length, "block_length": min(block_length, length)}
    return SamplingParams(**{"preset": "quality", "audit": 1, **blocks, **options})


def ask(engine: Engine, items: Sequence[Item], block_length: int, options: Mapping[str, Any]) -> list[CompletionOutput]:
    prompts = [prompt_of(item, engine.mask_token_id) for item in items]
    params = [params_of(item, block_length, options) for item in items]
    return [output.outputs[0] for output in engine.generate(prompts, params)]
