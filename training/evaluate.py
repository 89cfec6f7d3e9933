"""Evaluate an exported verse model:  python -m training.evaluate MODEL_DIR [--sampler torch|engine]

`torch` is the plain loop of sampling.py; `engine` the compiled runtime through its public API. Same questions, same
definition of a right answer.
"""

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from training import sampling
from training.model import LLaDA
from training.tasks.verse import Item, Sampler, VerseBook, acrostic_items, evaluate, hole_items, line_items

RECITE_LENGTH = 72  # answer tokens when a whole poem is asked for


def verse_items(book: VerseBook, tokenizer: Tokenizer, *, gen_length: int) -> list[Item]:
    """Every question of the book in the paper's wording, every poem with holes and as an acrostic skeleton."""
    return [
        *line_items(book, tokenizer, "next_line", gen_length=gen_length),
        *line_items(book, tokenizer, "previous_line", gen_length=gen_length),
        *hole_items(book, tokenizer),
        *acrostic_items(book, tokenizer),
        *line_items(book, tokenizer, "recite", gen_length=RECITE_LENGTH),
    ]


def torch_sampler(model: LLaDA) -> Sampler:
    """One block, one token a step: a prompt followed by masks and a template with holes are the same canvas."""
    return lambda items: sampling.infill(model, [item.canvas for item in items])


def engine_sampler(engine, **options) -> Sampler:
    """The same through llada_rt. `options`: SamplingParams beside the lengths, e.g. cache="dual", threshold=0.9."""
    from llada_rt import SamplingParams

    mask_id = engine.mask_token_id

    def request(item: Item) -> tuple[dict, SamplingParams]:
        length = max(1, len(item.canvas) - item.start if item.start else item.canvas.count(mask_id))
        steps = {} if "threshold" in options or "factor" in options else {"steps": length}
        params = SamplingParams(gen_length=length, block_length=length, **steps, **options)
        if item.start:
            return {"prompt_token_ids": list(item.canvas[: item.start])}, params
        return {"segments": segments(item.canvas, mask_id)}, params

    def fill(items: Sequence[Item]) -> list[list[int]]:
        prompts, params = zip(*map(request, items), strict=True)
        outputs = engine.generate(list(prompts), list(params))
        return [
            [*item.canvas[: item.start], *output.outputs[0].token_ids]
            for item, output in zip(items, outputs, strict=True)
        ]

    return fill


def segments(canvas: Sequence[int], mask_id: int) -> list[list[int] | int]:
    """Token ids with masks -> alternating runs: lists of given ids, numbers of holes."""
    runs = itertools.groupby(canvas, key=lambda token: token == mask_id)
    return [len(list(run)) if hidden else list(run) for hidden, run in runs]


def evaluate_verse(
    folder: Path, book: VerseBook, *, gen_length: int, every: int = 1, sampler: Sampler | None = None
) -> dict[str, float]:
    """Exact match of an exported folder, by default in the torch loop, float32; `every`: ask each n-th question."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    items = verse_items(book, tokenizer, gen_length=gen_length)[::every]
    return evaluate(items, tokenizer, sampler or torch_sampler(LLaDA.from_folder(folder)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="exported folder")
    parser.add_argument("--sampler", choices=("torch", "engine"), default="torch")
    parser.add_argument("--options", type=json.loads, default={}, help='engine options as JSON: {"cache": "dual"}')
    parser.add_argument("--max-chars", type=int, default=64, help="poems of at most so many characters")
    parser.add_argument("--gen-length", type=int, default=16)
    parser.add_argument("--every", type=int, default=1, help="ask only each n-th question")
    arguments = parser.parse_args()
    book = VerseBook.select(max_chars=arguments.max_chars)
    asked = {"gen_length": arguments.gen_length, "every": arguments.every}
    if arguments.sampler == "torch":
        metrics = evaluate_verse(arguments.model, book, **asked)
    else:
        from llada_rt import Engine

        with Engine(str(arguments.model), compute_type="float32") as engine:
            sampler = engine_sampler(engine, **arguments.options)
            metrics = evaluate_verse(arguments.model, book, **asked, sampler=sampler)
    print(json.dumps({task: round(share, 4) for task, share in metrics.items()}))


if __name__ == "__main__":
    main()
