"""Many requests at once: against the same one by one, against a padded batch in torch, and as they come.

    python -m benchmarks.bench_serving [--shapes s,m] [--requests 16] [--threads 2] [--repeats 3] [--arrivals 48]
    python -m benchmarks.bench_serving --torch published --caches dual     # `none`: without torch
    python -m benchmarks.bench_serving --table

Prompts of 16 to 128 and responses of 32 to 128 positions, blocks of 32, three tokens a step; random weights, so the
work is fixed. Before anything is timed the answers must be the same at once and alone, and the padded batch must give
the engine's tokens on a small model. Tokens are those the requests asked for. Overhead: the time outside the compiled
loop, over that inside it.

The padded batch (`baselines/padded_batch.py`) is all requests as one: prompts padded to the longest without an
attention mask, as published; every row as long a response as the longest; as many tokens a step.

Then `--arrivals` of the same kind of requests come as a Poisson process at `--load` of the capacity just measured, to
an AsyncEngine that streams: p50 and p99 of the time to the first text, the first block and the whole. The measured
capacity is that of `--requests` at once, so no more than those run at the same time.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch

from benchmarks.arrivals import Work, arrival_times, percentile, serve
from benchmarks.baselines.check import check_padded_batch
from benchmarks.baselines.padded_batch import PaddedBatch
from benchmarks.harness import ROOT, Timing, environment, interleave, last_runs, run_to_the_end, store
from benchmarks.noise import MEANING, Neighbours, mark, reasons
from benchmarks.shapes import BLOCK_LENGTH, PROMPT_LENGTH, SHAPES, Shape
from llada_rt import AsyncEngine, Engine, SamplingParams
from llada_rt.options.types import Cache
from llada_rt.runtime.runner import default_num_threads
from training.model import LLaDA

TOKENS_PER_STEP = 3
STEPS_PER_BLOCK = -(-BLOCK_LENGTH // TOKENS_PER_STEP)
ONE, ALL = "one by one", "at once"
PADDED = {"published": "torch padded Fast-dLLM", "lean": "torch padded lean"}
# What is compared, and the ratio of wall times that is asked; None: nothing is.
ASKED = (
    (f"{ONE} dual", f"{ALL} dual", 1.0),
    (f"{ONE} dual_compact", f"{ALL} dual_compact", 1.3),
    (PADDED["published"], f"{ALL} dual", 2.0),
    (PADDED["published"], f"{ALL} dual_compact", 2.0),
    (PADDED["lean"], f"{ALL} dual", None),
    (PADDED["lean"], f"{ALL} dual_compact", None),
)
WAITS = ("first_text_s", "first_block_s", "total_s")

Runs = dict[str, Callable[[], object]]


def work_of(shape: Shape, cache: Cache, count: int, seed: int = 0) -> Work:
    """Mixed lengths, the same for each cache."""
    choice, text = random.Random(seed), shape.text(2 * PROMPT_LENGTH)
    work = []
    for _ in range(count):
        length = choice.choice([32, 64, 96, 128])
        params = SamplingParams(
            preset="quality",
            gen_length=length,
            block_length=BLOCK_LENGTH,
            steps=length // BLOCK_LENGTH * STEPS_PER_BLOCK,
            cache=cache,
            eos_early_stop=False,
        )
        work.append((text[: choice.randint(16, 128)], params))
    return work


class Ours:
    """The same work both ways with one cache policy; `facts` are of the last run at once."""

    def __init__(self, engine: Engine, work: Work) -> None:
        self.engine = engine
        self.prompts, self.params = map(list, zip(*work, strict=True))
        self.facts: dict[str, object] = {}

    def one_by_one(self) -> list[list[int]]:
        pairs = zip(self.prompts, self.params, strict=True)
        return [self.engine.generate([p], q)[0].outputs[0].token_ids for p, q in pairs]

    def at_once(self) -> list[list[int]]:
        before, began = self.engine.stats(), time.perf_counter()
        outputs = self.engine.generate(self.prompts, self.params)
        spent, after = time.perf_counter() - began, self.engine.stats()
        inside, forwards = after.busy_s - before.busy_s, after.num_forwards - before.num_forwards
        self.facts = {
            "forwards": forwards,
            "rows_per_forward": (after.num_query_rows - before.num_query_rows) / forwards,
            "overhead": (spent - inside) / inside,
        }
        return [output.outputs[0].token_ids for output in outputs]

    def check(self) -> None:
        if self.one_by_one() != self.at_once():
            raise SystemExit(f"{self.params[0].cache}: other tokens at once than alone: not timed")


def padded_runs(folder: Path, work: Work, variants: list[str]) -> Runs:
    """Warm."""
    model = LLaDA.from_folder(folder, dtype=torch.bfloat16)
    prompts, lengths = [prompt for prompt, _ in work], [params.gen_length for _, params in work]
    runs: Runs = {}
    for variant in variants:
        batch = PaddedBatch(
            model,
            prompts,
            lengths,
            block_length=BLOCK_LENGTH,
            num_steps=STEPS_PER_BLOCK,
            lean=variant == "lean",
        )
        batch.warm_up()
        runs[PADDED[variant]] = batch.run
    return runs


def measure(shape: Shape, folder: Path, options: argparse.Namespace) -> list[dict]:
    runs: Runs = {}
    ours: dict[str, Ours] = {}
    with ExitStack() as stack:
        engine = stack.enter_context(
            Engine(folder, compute_type=options.dtype, threads=options.threads, max_num_seqs=options.requests)
        )
        for cache in options.caches:
            each = Ours(engine, work_of(shape, cache, options.requests))
            each.check()
            ours[f"{ALL} {cache}"] = each
            runs |= {f"{ONE} {cache}": each.one_by_one, f"{ALL} {cache}": each.at_once}
        work = work_of(shape, options.caches[0], options.requests)
        if options.torch:
            runs |= padded_runs(folder, work, options.torch)
        timings = interleave(runs, repeats=options.repeats, warm_up=False)  # the check and `padded_runs` were that
    num_tokens = sum(params.gen_length for _, params in work)
    results = [
        row(shape, who, timings[who], num_tokens, options) | (ours[who].facts if who in ours else {}) for who in runs
    ]
    if options.arrivals:
        for cache in options.caches:
            rate = options.load * options.requests / timings[f"{ALL} {cache}"].wall_s
            results.append(measure_arrivals(shape, folder, cache, rate, options))
    return results


def row(shape: Shape, who: str, timing: Timing, num_tokens: int, options: argparse.Namespace) -> dict:
    return {
        "shape": shape.name,
        "who": who,
        "requests": options.requests,
        "tokens": num_tokens,
        "wall_s": timing.wall_s,
        "cpu_s": timing.cpu_s,
        **timing.noise,
        "tokens_per_s": num_tokens / timing.wall_s,
    }


def measure_arrivals(shape: Shape, folder: Path, cache: Cache, rate: float, options: argparse.Namespace) -> dict:
    """`rate`: requests a second."""
    work = work_of(shape, cache, options.arrivals, seed=1)
    times = arrival_times(rate, options.arrivals)

    async def run() -> tuple[list, float, float | None]:
        sizes = {"max_num_seqs": options.requests, "max_num_queued_reqs": options.arrivals}
        async with AsyncEngine(folder, compute_type=options.dtype, threads=options.threads, **sizes) as engine:
            await engine.generate(*work[0])
            began, neighbours = time.perf_counter(), Neighbours()
            return await serve(engine, work, times), time.perf_counter() - began, neighbours.share()

    latencies, spent, foreign = asyncio.run(run())
    waits = {
        f"p{percent}_{name}": percentile([getattr(each, name) for each in latencies], percent)
        for name in WAITS
        for percent in (50, 99)
    }
    num_tokens = sum(params.gen_length for _, params in work)
    return {
        "shape": shape.name,
        "who": f"arrivals {cache}",
        "requests": options.arrivals,
        "tokens": num_tokens,
        "load": options.load,
        "rate": rate,
        "wall_s": spent,
        "tokens_per_s": num_tokens / spent,
        "foreign_share": foreign,
        "noisy": reasons(None, foreign),
        **waits,
    }


def print_rows(results: list[dict]) -> None:
    print("| shape | who | s | CPU s | spread | token/s | forwards | rows each | outside |")
    print("|---|---|---|---|---|---|---|---|---|")
    for r in results:
        if "rate" in r:
            continue
        line = f"| {r['shape']} | {r['who']} | {r['wall_s']:.2f} | {r['cpu_s']:.2f} | {r['spread']:.0%}{mark(r)} | "
        line += f"{r['tokens_per_s']:.1f} | "
        if "overhead" in r:
            line += f"{r['forwards']} | {r['rows_per_forward']:.0f} | {r['overhead']:.1%} |"
        else:
            line += "- | - | - |"
        print(line)
    print_waits(results)


def print_waits(results: list[dict]) -> None:
    arrivals = [r for r in results if "rate" in r]
    if not arrivals:
        return
    print("\n| shape | who | requests | a second | load | first text p50, p99 s | block p50, p99 s | all p50, p99 s |")
    print("|---|---|---|---|---|---|---|---|")
    for r in arrivals:
        waits = [f"{r[f'p50_{name}']:.2f}, {r[f'p99_{name}']:.2f}" for name in WAITS]
        line = f"| {r['shape']} | {r['who']}{mark(r)} | {r['requests']} | {r['rate']:.2f} | {r['load']:.0%} | "
        print(line + " | ".join(waits) + " |")


# ---------------------------------------------------------------- the table of ratios


def ratio_text(run: Mapping[str, dict], slow: str, fast: str, asked: float | None) -> str:
    """Wall ratio, the CPU ratio in brackets; what is asked."""
    if slow not in run or fast not in run:
        return "-"
    text = "{:.2f} ({:.2f})".format(*(run[slow][unit] / run[fast][unit] for unit in ("wall_s", "cpu_s")))
    text += mark(run[slow], run[fast])
    return text if asked is None else f"{text}, asked {asked}"


def print_table(path: Path) -> None:
    runs = last_runs(path)
    shapes = [name for name in SHAPES if any(shape == name for shape, _ in runs)]
    columns = [(shape, threads) for shape in shapes for threads in sorted({t for s, t in runs if s == shape})]
    for shape, threads in columns:
        records = runs[shape, threads].values()
        facts = next(iter(records))
        print(
            f"{shape}, {threads} threads: {facts['date']}, commit {facts['commit']}, load {facts['machine_load']}, ",
            end="",
        )
        print(f"{facts['cpu']}, {facts['table']}, torch {facts['torch']}, {facts['requests']} requests, ", end="")
        print(f"largest spread {max(record.get('spread', 0.0) for record in records):.0%}")
    print("\n| against | ours | " + " | ".join(f"{s}, {t} thread{'s' * (t > 1)}" for s, t in columns) + " |")
    print("|---|---|" + "---|" * len(columns))
    for slow, fast, asked in ASKED:
        cells = [ratio_text(runs[key], slow, fast, asked) for key in columns]
        print(f"| {slow} | {fast} | " + " | ".join(cells) + " |")
    every = [each for key in columns for each in runs[key].values()]
    cells = [
        ", ".join(f"{each['overhead']:.1%}" for each in runs[key].values() if "overhead" in each) for key in columns
    ]
    print("| time outside the loop | " + ALL + ", asked for s: 3% | " + " | ".join(cells) + " |")
    print_waits(every)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="s,m", help="of " + ", ".join(SHAPES))
    parser.add_argument("--caches", default="dual,dual_compact")
    parser.add_argument(
        "--torch", default="published,lean", help="padded batches; of " + ", ".join(PADDED) + "; or none"
    )
    parser.add_argument("--requests", type=int, default=16, help="at once")
    parser.add_argument("--arrivals", type=int, default=48, help="requests that come as a Poisson process; 0: none")
    parser.add_argument("--load", type=float, default=0.7, help="share of the capacity at which they come")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--threads", type=int, default=default_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_serving.jsonl")
    parser.add_argument("--table", action="store_true", help="print the ratios of what has been measured, and leave")
    options = parser.parse_args()
    if options.table:
        return print_table(options.out)
    options.caches = options.caches.split(",")
    options.torch = [] if options.torch == "none" else options.torch.split(",")
    torch.set_num_threads(options.threads)
    facts = environment(options.threads)
    facts["machine_load"] = facts.pop("load")  # `load` is that of the arrivals
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(MEANING)
    if options.torch:
        check_padded_batch(STEPS_PER_BLOCK)
    for name in options.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            results = measure(SHAPES[name], SHAPES[name].write(Path(folder)), options)
        print()
        print_rows(results)
        for r in results:
            store(options.out, {"bench": "serving", "dtype": options.dtype, **facts, **r})


if __name__ == "__main__":
    run_to_the_end(main)
