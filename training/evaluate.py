"""Evaluate a model folder:  python -m training.evaluate MODEL_DIR --task sudoku4 --num 500 --bound

A masked model answers through the compiled runtime (`llada_rt`, its public API only; --torch: through the plain loop of
sampling.py), an ARM through arm.py. A task is a name of training/tasks, whose rows no training has seen, "verse", the
demo's poems, or a file of rows with prompts and answers, or templates. An answer is right or not: exact match, or
whatever the task accepts. --bound adds how likely the model finds the right answers: the Monte Carlo bound of a masked
model, the perplexity of an ARM.
"""

import argparse
import ast
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from training import arm, likelihood, sampling
from training.export import write_results
from training.model import LLaDA, ModelConfig
from training.rows import RowConfig, read_records
from training.tasks import TASK_NAMES, Split, find_task
from training.tasks.items import Item, Sampler, Tally, ask, encode_rows, make_items
from training.tasks.verse import RECITE_LENGTH, VerseBook, verse_items
from training.tokenizer import EOT_TOKEN
from training.vocabulary import Vocabulary, open_vocabulary

if TYPE_CHECKING:
    from llada_rt import Engine

VERSE = "verse"

UNLIKE_REFERENCE = ("cache", "threshold", "factor")  # options that the published loop does not have


def torch_sampler(model: LLaDA) -> Sampler:
    """One block, one token a step: a prompt followed by masks and a template with holes are the same canvas."""
    return lambda items: sampling.infill(model, [item.canvas for item in items])


def arm_sampler(model: LLaDA, stop_ids: Sequence[int]) -> Sampler:
    """Greedy, up to as many tokens as the canvas has masks. ValueError for a template: an ARM has no way to fill it."""

    def answer(items: Sequence[Item]) -> list[list[int]]:
        if templates := [item.task for item in items if item.start == 0]:
            raise ValueError(f"{templates[0]}: a template with holes; an ARM writes from left to right only")
        filled: list[list[int]] = [[]] * len(items)
        by_length: dict[int, list[int]] = {}
        for index, item in enumerate(items):
            by_length.setdefault(len(item.canvas) - item.start, []).append(index)
        for length, indices in by_length.items():
            prompts = [items[index].canvas[: items[index].start] for index in indices]
            answers = arm.generate(model, prompts, max_new_tokens=length, stop_ids=stop_ids)
            for index, prompt, tokens in zip(indices, prompts, answers, strict=True):
                filled[index] = [*prompt, *tokens]
        return filled

    return answer


class EngineSampler:
    """The compiled runtime through its public API; counts tokens and forwards.

    options: SamplingParams beside the length. Without any, the published loop: one block, one token a step.
    """

    def __init__(self, engine: "Engine", options: Mapping[str, Any]) -> None:
        self.engine, self.options = engine, dict(options)
        self.num_tokens = self.num_forwards = 0

    def __call__(self, items: Sequence[Item]) -> list[list[int]]:
        prompts, params = zip(*map(self.request, items), strict=True)
        outputs = [output.outputs[0] for output in self.engine.generate(list(prompts), list(params))]
        self.num_tokens += sum(item.canvas.count(self.engine.mask_token_id) for item in items)
        self.num_forwards += sum(output.diffusion.nfe for output in outputs)
        return [[*item.canvas[: item.start], *output.token_ids] for item, output in zip(items, outputs, strict=True)]

    def request(self, item: Item) -> tuple[dict[str, Any], Any]:
        """An answer as generation after a prompt, a template as segments; either way one block unless options say."""
        from llada_rt import SamplingParams

        length = len(item.canvas) - item.start
        preset = "quality" if set(UNLIKE_REFERENCE) & set(self.options) else "reference"
        params = SamplingParams(**{"preset": preset, "gen_length": length, "block_length": length, **self.options})
        if item.start:
            return {"prompt_token_ids": list(item.canvas[: item.start])}, params
        return {"segments": segments(item.canvas, self.engine.mask_token_id)}, params

    @property
    def tokens_per_forward(self) -> float:
        return self.num_tokens / self.num_forwards


def segments(canvas: Sequence[int], mask_id: int) -> list[list[int] | int]:
    """Token ids with masks -> alternating runs: lists of given ids, numbers of holes."""
    runs = itertools.groupby(canvas, key=lambda token: token == mask_id)
    return [len(list(run)) if hidden else list(run) for hidden, run in runs]


# ------------------------------------------------------------------------------------------------------ one evaluation


def load_items(
    task: str,
    source: Tokenizer | Vocabulary,
    *,
    num: int,
    seed: int,
    chat: bool,
    gen_length: int | None,
    split: Split = "test",
) -> tuple[list[Item], list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """The questions, and (prompt, answer) tokens of each for the likelihood. `num`: rows taken of a file."""
    config = RowConfig(chat=chat)
    if task in TASK_NAMES:
        chosen = find_task(task)
        rows = [(f"{task}:{i}", row) for i, row in enumerate(chosen.generate(seed, num, split), 1)]
        check = chosen.check
    else:
        path = Path(task)
        if not path.suffix:
            raise ValueError(f"task expected a file, 'verse' or one of {list(TASK_NAMES)}, received {task!r}")
        rows, check = list(itertools.islice(read_records(path, config), num)), None
        if not rows:
            raise ValueError(f"{path}: no rows")
    items = make_items(task, rows, source, config, gen_length=gen_length, check=check)
    return items, [(example.prompt, example.answer) for example in encode_rows(rows, source, config)]


def evaluate(
    folder: Path,
    items: Sequence[Item],
    *,
    options: Mapping[str, Any] | None = None,
    torch_loop: bool = False,
    compute_type: str = "float32",
) -> tuple[dict[str, Tally], dict[str, Any]]:
    """(right and asked per task, facts of the run) of a model folder. An ARM leaves templates out.

    options: SamplingParams of the runtime beside the length; only the runtime has any.
    """
    vocabulary = open_vocabulary(folder)
    config = ModelConfig.from_json(folder / "config.json")
    facts: dict[str, Any] = {}
    if options and (config.causal or torch_loop):
        raise ValueError(f"options are the runtime's, expected none here, received {dict(options)}")
    began = time.perf_counter()
    if config.causal:
        answerable = [item for item in items if item.start]
        if not answerable:
            raise ValueError("these are templates with holes; an ARM writes from left to right only")
        if len(answerable) < len(items):
            facts["templates left out"] = len(items) - len(answerable)
        tallies = ask(answerable, vocabulary, arm_sampler(LLaDA.from_folder(folder), vocabulary.end_ids))
        facts["setting"] = "ARM, greedy"
    elif torch_loop:
        tallies = ask(items, vocabulary, torch_sampler(LLaDA.from_folder(folder)))
        facts["setting"] = "torch loop"
    else:
        from llada_rt import Engine

        with Engine(str(folder), compute_type=compute_type) as engine:
            sampler = EngineSampler(engine, options or {})
            began = time.perf_counter()
            tallies = ask(items, vocabulary, sampler)
        facts["setting"] = ", ".join(["runtime", *(f"{k}={v}" for k, v in (options or {}).items())])
        facts["tokens_per_forward"] = sampler.tokens_per_forward
    facts["seconds"] = time.perf_counter() - began
    return tallies, facts


def evaluate_likelihood(
    folder: Path, rows: Sequence[tuple[Sequence[int], Sequence[int]]], *, num_draws: int, estimator: str, seed: int = 0
) -> dict[str, Any]:
    """Nats per answer token and their standard error: a bound for a masked model, exact for an ARM."""
    model = LLaDA.from_folder(folder)
    if model.config.causal:
        exact = arm.perplexity(model, rows)
        return {"kind": "exact", **asdict(exact), "perplexity": exact.perplexity}
    found = likelihood.bound(model, rows, num_draws=num_draws, estimator=estimator, seed=seed)
    return {"kind": "upper bound", "estimator": estimator, **asdict(found), "perplexity": found.perplexity}


# -------------------------------------------------------------------------------------------------- the demo's verse

SETTINGS: dict[str, dict[str, Any]] = {  # of the engine; the first is the published loop, the others are approximate
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
    causal = ModelConfig.from_json(folder / "config.json").causal
    settings = {f"engine, {name}": options for name, options in SETTINGS.items()}
    if causal or not engine:
        settings = {"greedy" if causal else "torch loop": {}}
    results = {}
    for name, options in settings.items():
        tallies, facts = evaluate(folder, items, options=options, torch_loop=not engine)
        results[name] = {task: tally.share for task, tally in tallies.items()}
        if "tokens_per_forward" in facts:
            results[name]["tokens per forward"] = facts["tokens_per_forward"]
    if every == 1 and tasks is None:
        columns = {
            name: {row: f"{x:.2f}" if row == "tokens per forward" else f"{100 * x:.1f} %" for row, x in cells.items()}
            for name, cells in results.items()
        }
        write_results(folder, NOTE.format(gen_length=gen_length, recite=RECITE_LENGTH), columns)
    return results


def line_rows(items: Sequence[Item], tokenizer: Tokenizer) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(prompt, answer) tokens of the questions about lines; of several right answers the first in their order."""
    end = tokenizer.token_to_id(EOT_TOKEN)
    lines = [item for item in items if item.task in ("next_line", "previous_line")]
    answers = [tokenizer.encode(min(item.accepted), add_special_tokens=False).ids for item in lines]
    return [(item.canvas[: item.start], (*answer, end)) for item, answer in zip(lines, answers, strict=True)]


# ------------------------------------------------------------------------------------------------------------ command


def parse_options(text: str) -> dict[str, Any]:
    """ "cache=dual,threshold=0.9" -> {"cache": "dual", "threshold": 0.9}."""
    options: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not (name and equals and value):
            raise ValueError(f"options expected name=value,name=value, received {part!r}")
        try:
            options[name] = ast.literal_eval(value.capitalize() if value in ("true", "false") else value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """The evaluation that the command line asks for, as plain JSON values."""
    items, rows = load_items(
        arguments.task,
        open_vocabulary(arguments.model),
        num=arguments.num,
        seed=arguments.seed,
        chat=arguments.chat,
        gen_length=arguments.gen_length,
        split=arguments.split,
    )
    tallies, facts = evaluate(
        arguments.model,
        items,
        options=parse_options(arguments.options),
        torch_loop=arguments.torch,
        compute_type=arguments.compute_type,
    )
    tally = tallies[arguments.task]
    result = {
        "model": str(arguments.model),
        "task": arguments.task,
        "right": tally.right,
        "asked": tally.asked,
        "share": tally.share,
        "standard_error": tally.standard_error,
        **facts,
    }
    if arguments.bound:
        result["likelihood"] = evaluate_likelihood(
            arguments.model, rows, num_draws=arguments.draws, estimator=arguments.estimator
        )
    return result


def describe(result: Mapping[str, Any]) -> str:
    """A result for people."""
    lines = [
        f"{result['task']}: {result['right']} of {result['asked']} right, "
        f"{100 * result['share']:.1f} % +- {100 * result['standard_error']:.1f} ({result['setting']})"
    ]
    if "tokens_per_forward" in result:
        lines.append(f"{result['tokens_per_forward']:.2f} tokens per forward, {result['seconds']:.1f} s")
    if found := result.get("likelihood"):
        lines.append(
            f"{found['nats_per_token']:.4f} +- {found['standard_error']:.4f} nats per answer token ({found['kind']}), "
            f"perplexity {found['perplexity']:.3f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="exported folder")
    parser.add_argument("--task", default=VERSE, help=f"verse, a .jsonl or .parquet file, or {', '.join(TASK_NAMES)}")
    parser.add_argument("--num", type=int, default=500, help="questions of a task, or first rows of a file")
    parser.add_argument("--seed", type=int, default=0, help="of the task's questions")
    parser.add_argument(
        "--split",
        choices=("test", "train"),
        default="test",
        help="train: questions of the side that training rows are of",
    )
    parser.add_argument("--chat", action="store_true", help="prompts and answers through the chat template")
    parser.add_argument("--gen-length", type=int, help="positions for an answer (default: the longest; verse: 16)")
    parser.add_argument("--options", default="", help="of the runtime, e.g. cache=dual,threshold=0.9")
    parser.add_argument("--torch", action="store_true", help="the plain torch loop instead of the runtime")
    parser.add_argument("--compute-type", default="float32", help="of the runtime: float32 or bfloat16")
    parser.add_argument("--bound", action="store_true", help="likelihood of the right answers too")
    parser.add_argument("--draws", type=int, default=128, help="Monte Carlo draws of the bound, for each row")
    parser.add_argument(
        "--estimator", choices=("counted", "times"), default="counted", help="see training/likelihood.py"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of words")
    verse = parser.add_argument_group("verse")
    verse.add_argument("--engine", action="store_true", help="the runtime in several settings, not the torch loop")
    verse.add_argument("--max-chars", type=int, default=64, help="poems of at most so many characters")
    verse.add_argument("--tasks", nargs="+", default=None, help="only these, e.g. next_line previous_line holes")
    verse.add_argument("--every", type=int, default=1, help="ask only each n-th question (and write nothing)")
    arguments = parser.parse_args()
    try:
        if arguments.task != VERSE:
            result = run(arguments)
            print(json.dumps(result, ensure_ascii=False) if arguments.json else describe(result))
            return
        book = VerseBook.select(max_chars=arguments.max_chars)
        results = evaluate_and_record(
            arguments.model,
            book,
            gen_length=arguments.gen_length or 16,
            every=arguments.every,
            tasks=arguments.tasks,
            engine=arguments.engine,
        )
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    for name, cells in results.items():
        print(json.dumps({"setting": name, **{row: round(value, 4) for row, value in cells.items()}}))
    if arguments.bound:
        tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
        rows = line_rows(verse_items(book, tokenizer, gen_length=16), tokenizer)[:: arguments.every]
        found = evaluate_likelihood(arguments.model, rows, num_draws=arguments.draws, estimator=arguments.estimator)
        print(json.dumps({"likelihood of line answers": found}))


if __name__ == "__main__":
    main()
