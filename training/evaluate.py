"""Evaluate an exported verse model and note the result in its card:  python -m training.evaluate MODEL_DIR

Without `--engine`, in the plain torch loop of sampling.py. With it, in the compiled runtime through its public API: the
reference setting, and the approximate ones beside it. Same questions, same definition of a right answer.
"""

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from training import sampling
from training.export import write_results
from training.model import LLaDA
from training.tasks.verse import Item, Sampler, VerseBook, acrostic_items, evaluate, hole_items, line_items

RECITE_LENGTH = 72  # answer tokens when a whole poem is asked for
SETTINGS = {  # of the engine; the first is the published loop, the others are approximate
    "reference": {},
    "dual": {"cache": "dual"},
    "dual, threshold 0.9": {"cache": "dual", "threshold": 0.9},
}
NOTE = """Share of questions answered exactly, over everything the model was trained on: it recites, and nothing here
measures generalisation. These very files (weights as rounded here), float32 arithmetic, temperature 0, low-confidence
remasking, one block, one token a step unless a threshold is given; line answers have {gen_length} tokens, whole poems
{recite}. `next_line`, `previous_line`: every line that has one, in the paper's wording; `holes`: every poem with 30 %
of its characters hidden; `acrostic`: only the first character of each line and the punctuation given; `recite`: by
title and author."""


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


def torch_sampler(model: LLaDA) -> Sampler:
    """One block, one token a step: a prompt followed by masks and a template with holes are the same canvas."""
    return lambda items: sampling.infill(model, [item.canvas for item in items])


class EngineSampler:
    """The same through llada_rt; counts tokens and forwards. `options`: SamplingParams beside the lengths."""

    def __init__(self, engine, options: Mapping[str, Any]) -> None:
        self.engine, self.options = engine, options
        self.num_tokens = self.num_forwards = 0

    def __call__(self, items: Sequence[Item]) -> list[list[int]]:
        prompts, params = zip(*map(self.request, items), strict=True)
        outputs = [output.outputs[0] for output in self.engine.generate(list(prompts), list(params))]
        self.num_tokens += sum(item.canvas.count(self.engine.mask_token_id) for item in items)
        self.num_forwards += sum(output.diffusion.nfe for output in outputs)
        return [[*item.canvas[: item.start], *output.token_ids] for item, output in zip(items, outputs, strict=True)]

    def request(self, item: Item) -> tuple[dict, Any]:
        """A chat answer as generation after a prompt, a template as segments; either way one block."""
        from llada_rt import SamplingParams

        length = len(item.canvas) - item.start
        if {"cache", "threshold"} & set(self.options):
            params = SamplingParams(preset="quality", gen_length=length, block_length=length, **self.options)
        else:
            params = SamplingParams(gen_length=length, block_length=length, steps=length)
        if item.start:
            return {"prompt_token_ids": list(item.canvas[: item.start])}, params
        return {"segments": segments(item.canvas, self.engine.mask_token_id)}, params


def segments(canvas: Sequence[int], mask_id: int) -> list[list[int] | int]:
    """Token ids with masks -> alternating runs: lists of given ids, numbers of holes."""
    runs = itertools.groupby(canvas, key=lambda token: token == mask_id)
    return [len(list(run)) if hidden else list(run) for hidden, run in runs]


def evaluate_and_record(
    folder: Path,
    book: VerseBook,
    *,
    gen_length: int,
    every: int = 1,
    tasks: Sequence[str] | None = None,
    engine: bool = False,
) -> dict[str, dict[str, float]]:
    """Exact match of an exported folder, {setting: {task: share}}; noted in its card if all questions were asked."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    items = verse_items(book, tokenizer, gen_length=gen_length)
    items = [item for item in items if tasks is None or item.task in tasks][::every]
    if engine:
        results = {}
        from llada_rt import Engine

        with Engine(str(folder), compute_type="float32") as opened:
            for name, options in SETTINGS.items():
                sampler = EngineSampler(opened, options)
                results[f"engine, {name}"] = evaluate(items, tokenizer, sampler)
                results[f"engine, {name}"]["tokens per forward"] = sampler.num_tokens / sampler.num_forwards
    else:
        results = {"torch loop": evaluate(items, tokenizer, torch_sampler(LLaDA.from_folder(folder)))}
    if every == 1:
        columns = {
            name: {row: f"{x:.2f}" if row == "tokens per forward" else f"{100 * x:.1f} %" for row, x in cells.items()}
            for name, cells in results.items()
        }
        write_results(folder, NOTE.format(gen_length=gen_length, recite=RECITE_LENGTH), columns)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="exported folder")
    parser.add_argument("--engine", action="store_true", help="the compiled runtime instead of the torch loop")
    parser.add_argument("--max-chars", type=int, default=64, help="poems of at most so many characters")
    parser.add_argument("--gen-length", type=int, default=16)
    parser.add_argument("--tasks", nargs="+", default=None, help="only these, e.g. next_line previous_line holes")
    parser.add_argument("--every", type=int, default=1, help="ask only each n-th question (and write nothing)")
    arguments = parser.parse_args()
    book = VerseBook.select(max_chars=arguments.max_chars)
    options = {
        "tasks": arguments.tasks,
        "gen_length": arguments.gen_length,
        "every": arguments.every,
        "engine": arguments.engine,
    }
    for name, cells in evaluate_and_record(arguments.model, book, **options).items():
        print(json.dumps({"setting": name, **{row: round(value, 4) for row, value in cells.items()}}))


if __name__ == "__main__":
    main()
