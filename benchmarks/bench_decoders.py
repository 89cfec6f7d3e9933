"""Right answers and tokens a forward of the selection rules, on the demo model's tasks.

    python -m benchmarks.bench_decoders [--every 8] [--threads 1]

float32, temperature 0, each n-th question of demo_tasks.py. Blocks of 32, or the whole answer at once. Nothing
here is a time, so a busy machine changes no figure.
"""

import argparse
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks.demo_tasks import TASKS, ask, questions
from benchmarks.harness import ROOT, environment, run_to_the_end, store
from llada_rt import Engine
from llada_rt.config import DEMO_DIR

WHOLE = 128  # at least as long as any answer
EXACT: dict[str, Any] = {}
RULES: dict[str, dict[str, Any]] = {
    "threshold=0.9": {"threshold": 0.9},
    "factor=1.0": {"factor": 1.0},
    "frechet=0.25": {"frechet": 0.25},
    "local_leap=0.9": {"local_leap": 0.9},
    "entropy_bound=0.1": {"entropy_bound": 0.1},
}
SLIDING = {"cache": "dsb", "block_order": "sliding_greedy"}


def settings() -> Iterator[tuple[str, dict[str, Any], int]]:
    """(name, options, block length)"""
    for block in (32, WHOLE):
        blocks = "whole" if block == WHOLE else f"blocks of {block}"
        yield f"one token a step, no cache, {blocks}", EXACT, block
        for rule, options in RULES.items():
            yield f"`{rule}`, dual, {blocks}", {**options, "cache": "dual"}, block
    for rule in ("threshold=0.9", "entropy_bound=0.1"):
        yield f"`{rule}`, dsb, greedy blocks of 32", {**RULES[rule], **SLIDING}, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=8, help="ask each n-th question")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_decoders.jsonl")
    options = parser.parse_args()
    facts = environment(options.threads)
    print(", ".join(f"{key} {value}" for key, value in facts.items()) + "\n")
    items = questions(Tokenizer.from_file(str(DEMO_DIR / "tokenizer.json")), options.every)
    by_task = {task: list(group) for task, group in groupby(items, key=lambda item: item.task)}
    print("| setting | " + " | ".join(f"{task}, right | tokens a forward" for task in TASKS) + " |")
    print("|---|" + "---|" * (2 * len(TASKS)))
    with Engine(compute_type="float32", threads=options.threads, max_num_seqs=16) as engine:
        for name, rule, block in settings():
            cells, record = [], {}
            for task in TASKS:
                answers = ask(engine, by_task[task], block, {"audit": 0, **rule})
                right = sum(a.text.strip() in i.accepted for i, a in zip(by_task[task], answers, strict=True))
                placed = sum(a.diffusion.nfe * a.diffusion.tokens_per_forward for a in answers)
                per_forward = placed / sum(a.diffusion.nfe for a in answers)
                record[task] = {"right": right, "asked": len(answers), "tokens_per_forward": per_forward}
                cells.append(f"{right} of {len(answers)} | {per_forward:.2f}")
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
            store(options.out, {"bench": "decoders", "setting": name, **facts, "tasks": record})


if __name__ == "__main__":
    run_to_the_end(main)
