"""Evaluate a model folder:  python -m training.evaluate MODEL_DIR --task sudoku4 --num 500 --bound

A masked model answers through the compiled runtime (`llada_rt`, its public API only; --torch: through the plain loop of
sampling.py), an ARM through arm.py. A task is a name of training/tasks, whose rows no training has seen, "verse", the
demo's poems, or a file of rows with prompts and answers, or templates. An answer is right or not: exact match, or
whatever the task accepts. --bound adds how likely the model finds the right answers: the Monte Carlo bound of a masked
model, the perplexity of an ARM.
"""

import argparse
import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from training.evaluation import evaluate, evaluate_likelihood, load_items
from training.tasks import TASK_NAMES
from training.tasks.verse import VerseBook, verse_items
from training.tasks.verse_evaluation import evaluate_and_record, line_rows
from training.vocabulary import open_vocabulary

VERSE = "verse"


def parse_options(text: str) -> dict[str, Any]:
    """ "cache=dual,threshold=0.9" -> {"cache": "dual", "threshold": 0.9}."""
    options: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not (name and equals and value):
            raise ValueError(f"options: expected name=value,name=value, got {part!r}")
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
