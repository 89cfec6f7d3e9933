"""What a model knows by heart of the demo's verse, asked in every task; the table goes into the model's card."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from training.evaluation import evaluate
from training.model import ModelConfig
from training.model_folder import write_results
from training.tasks.items import Item
from training.tasks.verse import RECITE_LENGTH, VerseBook, verse_items
from training.tokenization import EOT_TOKEN, token_id

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
    end = token_id(tokenizer, EOT_TOKEN)
    lines = [item for item in items if item.task in ("next_line", "previous_line")]
    answers = [tokenizer.encode(min(item.accepted), add_special_tokens=False).ids for item in lines]
    return [(item.canvas[: item.start], (*answer, end)) for item, answer in zip(lines, answers, strict=True)]
