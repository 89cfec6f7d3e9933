"""Whole answers: the Engine with each cache policy and compute type, beside the published loops in plain torch.

    python -m benchmarks.bench_engine [--shapes s,m,l] [--threads 2] [--blocks 1] [--repeats 3] [--compile]
    python -m benchmarks.bench_engine --shapes m --caches none,prefix,dual --no-torch
    python -m benchmarks.bench_engine --table

A canvas of 192 positions whose last `--blocks` blocks of 32 are written, one token a step: every block costs the same,
so one of them says what a whole answer of four takes. Random weights, so nothing is said of quality here. Before
anything is timed the loops must give equal tokens on a small model in float32, and each policy the same tokens alone
and beside a neighbour. `--table` prints the ratios of the last run of each shape and thread count.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from benchmarks.baselines.check import check_baselines
from benchmarks.baselines.fast_dllm_torch import DualCacheLoop
from benchmarks.baselines.llada_torch import FullLoop
from benchmarks.harness import ROOT, Timing, environment, interleave, last_runs, run_to_the_end, store
from benchmarks.noise import MEANING, mark
from benchmarks.shapes import BLOCK_LENGTH, CANVAS_LENGTH, SHAPES, Shape
from llada_rt import ConfigError, Engine, RequestOutput, SamplingParams
from llada_rt.options.types import Cache
from llada_rt.planning.caches import CACHES
from llada_rt.runtime.runner import default_num_threads
from training.model import LLaDA

LLADA, FAST_DLLM, LEAN = "torch LLaDA", "torch Fast-dLLM", "torch lean"
COMPILED = " compiled"
# What the engine is compared with, and the ratio that is asked of each shape.
ASKED = (
    (LLADA, "none bfloat16", {"s": 2.5, "m": 1.5, "l": 1.2}),
    (FAST_DLLM, "dual bfloat16", {"s": 3.0, "m": 2.0, "l": 1.5}),
    (LEAN, "dual bfloat16", {"s": 2.0, "m": 1.5, "l": 1.25}),
    (FAST_DLLM, "dual int8", {"s": 5.0, "m": 3.5, "l": 2.5}),
    ("dual bfloat16", "dual_compact bfloat16", {"s": 1.3, "m": 1.4, "l": 1.4}),
)

Runs = dict[str, Callable[[], object]]


def params_of(cache: Cache, gen_length: int) -> SamplingParams:
    return SamplingParams(
        preset="quality", gen_length=gen_length, block_length=BLOCK_LENGTH, cache=cache, eos_early_stop=False
    )


def check_tokens(engine: Engine, cache: Cache, prompt: list[int]) -> None:
    """One block alone and in a ragged batch."""
    params = params_of(cache, BLOCK_LENGTH)
    alone, *_ = engine.generate(prompt, params)
    beside, *_ = engine.generate([prompt, prompt[: len(prompt) // 3]], params)
    if alone.outputs[0].token_ids != beside.outputs[0].token_ids:
        raise SystemExit(f"{cache}: other tokens in a batch than alone: not timed")


def engine_runs(
    engine: Engine, compute_type: str, prompts: list[list[int]], options: argparse.Namespace, outputs: dict
) -> Runs:
    """One run per cache policy; its outputs go into `outputs` by the same name."""

    def generate(name: str, cache: Cache) -> Callable[[], object]:
        params = params_of(cache, options.blocks * BLOCK_LENGTH)
        return lambda: outputs.update({name: engine.generate(prompts, params)})

    caches = options.caches if compute_type == "bfloat16" else [c for c in options.caches if c != "none"]
    for cache in caches:
        check_tokens(engine, cache, prompts[0])
    names = {f"{cache} {compute_type}": cache for cache in caches}
    return {name: generate(name, cache) for name, cache in names.items()}


def torch_runs(model: LLaDA, canvas: list[int], options: argparse.Namespace) -> Runs:
    mask_id = model.config.mask_token_id
    first = CANVAS_LENGTH - options.blocks * BLOCK_LENGTH
    blocks = [(start, start + BLOCK_LENGTH) for start in range(first, CANVAS_LENGTH, BLOCK_LENGTH)]

    def denoise(make: Callable[[], FullLoop | DualCacheLoop]) -> Callable[[], object]:
        def run() -> None:
            loop = make()
            for block in blocks:
                loop.denoise(block, BLOCK_LENGTH)

        return run

    runs: Runs = {}
    for compile in (False, True) if options.compile else (False,):
        suffix = COMPILED if compile else ""
        forward = torch.compile(model, dynamic=False) if compile else model
        runs[LLADA + suffix] = denoise(partial(FullLoop, forward, canvas, mask_id))
        for name, lean in ((FAST_DLLM, False), (LEAN, True)):
            make = lambda lean=lean, compile=compile: DualCacheLoop(  # noqa: E731
                model, canvas, blocks[0], lean=lean, compile=compile
            )
            runs[name + suffix] = denoise(make)
    return runs


def measure(shape: Shape, folder: Path, options: argparse.Namespace) -> list[dict]:
    length = CANVAS_LENGTH - options.blocks * BLOCK_LENGTH
    prompt = shape.text(length)
    prompts = [[*prompt[first:], *prompt[:first]] for first in range(options.batch)]
    outputs: dict[str, list[RequestOutput]] = {}
    runs: Runs = {}
    with ExitStack() as stack:
        for compute_type in options.compute_types:
            try:
                engine = stack.enter_context(
                    Engine(folder, compute_type=compute_type, threads=options.threads, max_num_seqs=options.batch + 1)
                )
            except ConfigError as error:
                print(f"{compute_type}: skipped: {error}")
                continue
            runs |= engine_runs(engine, compute_type, prompts, options, outputs)
        if options.torch:
            canvas = [*prompt, *[shape.config.mask_token_id] * (CANVAS_LENGTH - length)]
            runs |= torch_runs(LLaDA.from_folder(folder, dtype=torch.bfloat16), canvas, options)
        timings = interleave(runs, repeats=options.repeats)
    return [row(shape, name, outputs.get(name), timings[name], options) for name in runs]


def row(
    shape: Shape, name: str, outputs: Sequence[RequestOutput] | None, timing: Timing, options: argparse.Namespace
) -> dict:
    stats = [output.outputs[0].diffusion for output in outputs or ()]
    num_tokens = options.blocks * BLOCK_LENGTH * (options.batch if outputs else 1)
    return {
        "shape": shape.name,
        "who": name,
        "blocks": options.blocks,
        "batch": len(outputs or [1]),
        "nfe": sum(each.nfe for each in stats) or None,
        "query_rows": sum(each.num_query_rows for each in stats) or None,
        "wall_s": timing.wall_s,
        "cpu_s": timing.cpu_s,
        **timing.noise,
        "tokens_per_s": num_tokens / timing.wall_s,
        "tokens_per_cpu_s": num_tokens / timing.cpu_s,
    }


# ---------------------------------------------------------------- the table of ratios


def ratio_text(run: Mapping[str, dict], slow: str, fast: str) -> str:
    """Wall ratio, the CPU ratio in brackets; against the compiled loop too, where it was timed."""
    if slow not in run or fast not in run:
        return "-"
    text = "{:.2f} ({:.2f})".format(*(run[slow][unit] / run[fast][unit] for unit in ("wall_s", "cpu_s")))
    if slow + COMPILED in run:
        text += " / compiled {:.2f}".format(run[slow + COMPILED]["wall_s"] / run[fast]["wall_s"])
    return text + mark(run[slow], run[fast])


def print_table(path: Path) -> None:
    runs = last_runs(path, lambda record: record["batch"] == 1)
    shapes = [name for name in SHAPES if any(shape == name for shape, _ in runs)]
    columns = [(shape, threads) for shape in shapes for threads in sorted({t for s, t in runs if s == shape})]
    for shape, threads in columns:
        facts = next(iter(runs[shape, threads].values()))
        print(f"{shape}, {threads} threads: {facts['date']}, commit {facts['commit']}, load {facts['load']}, ", end="")
        print(f"{facts['cpu']}, {facts['table']}, torch {facts['torch']}, largest spread ", end="")
        print(f"{max(record['spread'] for record in runs[shape, threads].values()):.0%}")
    print()
    print("| against | ours | " + " | ".join(f"{s}, {t} thread{'s' * (t > 1)} (asked)" for s, t in columns) + " |")
    print("|---|---|" + "---|" * len(columns))
    for slow, fast, asked in ASKED:
        cells = [f"{ratio_text(runs[key], slow, fast)} ({asked[key[0]]})" for key in columns]
        print(f"| {slow} | {fast} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="s,m", help="of " + ", ".join(SHAPES))
    parser.add_argument("--caches", default="none,dual,dual_compact", help="of " + ", ".join(CACHES))
    parser.add_argument("--compute-types", default="bfloat16,int8", help="of the engine; `none` runs in bfloat16 only")
    parser.add_argument("--torch", action=argparse.BooleanOptionalAction, default=True, help="the loops in torch")
    parser.add_argument("--compile", action="store_true", help="them compiled too")
    parser.add_argument("--blocks", type=int, choices=[1, 2, 3, 4], default=1)
    parser.add_argument("--batch", type=int, default=1, help="requests at once; torch runs one")
    parser.add_argument("--threads", type=int, default=default_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_engine.jsonl")
    parser.add_argument("--table", action="store_true", help="print the ratios of what has been measured, and leave")
    options = parser.parse_args()
    if options.table:
        return print_table(options.out)
    options.caches, options.compute_types = options.caches.split(","), options.compute_types.split(",")
    torch.set_num_threads(options.threads)
    facts = environment(options.threads)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(MEANING)
    if options.torch:
        check_baselines(compile=options.compile)
    print("| shape | who | forwards | rows | s | CPU s | spread | token/s | token/CPU s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in options.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            shape = SHAPES[name]
            results = measure(shape, shape.write(Path(folder)), options)
        for r in results:
            print(
                f"| {r['shape']} | {r['who']} | {r['nfe'] or '-'} | {r['query_rows'] or '-'} | {r['wall_s']:.3f} | "
                f"{r['cpu_s']:.3f} | {r['spread']:.0%}{mark(r)} | {r['tokens_per_s']:.1f} | "
                f"{r['tokens_per_cpu_s']:.1f} |",
                flush=True,
            )
            store(options.out, {"bench": "engine", **facts, **r})


if __name__ == "__main__":
    run_to_the_end(main)
