"""Whole requests through the Engine with each cache policy.

    python -m benchmarks.bench_engine [--shapes s,m] [--caches none,dual,...] [--batch 1] [--dtype bfloat16]
                                      [--threads 2] [--repeats 3]

64 prompt and 128 response positions, blocks of 32, one token a step; random weights, so agreement with the exact run
says nothing here and is not shown. Before anything is timed each policy must give the same tokens alone and beside a
neighbour of another length.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.harness import ROOT, Timing, environment, interleave, store
from benchmarks.shapes import BLOCK_LENGTH, GEN_LENGTH, PROMPT_LENGTH, SHAPES, Shape
from llada_rt import Engine, RequestOutput, SamplingParams, _core
from llada_rt.caches import CACHES


def params_of(cache: str, gen_length: int = GEN_LENGTH) -> SamplingParams:
    return SamplingParams(
        preset="quality", gen_length=gen_length, block_length=BLOCK_LENGTH, cache=cache, eos_early_stop=False
    )


def check_tokens(engine: Engine, cache: str, prompt: list[int]) -> None:
    """One block alone and in a ragged batch."""
    params = params_of(cache, BLOCK_LENGTH)
    alone, *_ = engine.generate(prompt, params)
    beside, *_ = engine.generate([prompt, prompt[: PROMPT_LENGTH // 3]], params)
    if alone.outputs[0].token_ids != beside.outputs[0].token_ids:
        raise SystemExit(f"{cache}: other tokens in a batch than alone: not timed")


def measure(shape: Shape, folder: Path, caches: Sequence[str], options: argparse.Namespace) -> list[dict]:
    prompt = shape.canvas()[:PROMPT_LENGTH]
    prompts = [[*prompt[first:], *prompt[:first]] for first in range(options.batch)]
    outputs: dict[str, list[RequestOutput]] = {}
    with Engine(folder, compute_type=options.dtype, threads=options.threads, max_num_seqs=options.batch + 1) as engine:

        def generate(cache: str) -> Callable[[], object]:
            return lambda: outputs.update({cache: engine.generate(prompts, params_of(cache))})

        for cache in caches:
            check_tokens(engine, cache, prompt)
        timings = interleave({cache: generate(cache) for cache in caches}, repeats=options.repeats)
    return [row(shape, cache, outputs[cache], timings[cache], timings[caches[0]]) for cache in caches]


def row(shape: Shape, cache: str, outputs: Sequence[RequestOutput], timing: Timing, first: Timing) -> dict:
    stats = [output.outputs[0].diffusion for output in outputs]
    num_tokens = sum(each.canvas_tokens for each in stats)
    return {
        "shape": shape.name,
        "cache": cache,
        "batch": len(outputs),
        "nfe": sum(each.nfe for each in stats),
        "query_rows": sum(each.num_query_rows for each in stats),
        "wall_s": timing.wall_s,
        "cpu_s": timing.cpu_s,
        "spread": timing.spread,
        "tokens_per_s": num_tokens / timing.wall_s,
        "tokens_per_cpu_s": num_tokens / timing.cpu_s,
        "first_over_this_wall": first.wall_s / timing.wall_s,
        "first_over_this_cpu": first.cpu_s / timing.cpu_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="s,m", help="of " + ", ".join(SHAPES))
    parser.add_argument("--caches", default=",".join(CACHES), help="the first is what the others are compared with")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--threads", type=int, default=_core.default_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_engine.jsonl")
    options = parser.parse_args()
    caches = options.caches.split(",")
    facts = environment(options.threads)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(f"| shape | cache | forwards | rows | s | CPU s | spread | token/s | {caches[0]} / this | CPU |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in options.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            shape = SHAPES[name]
            results = measure(shape, shape.write(Path(folder)), caches, options)
        for r in results:
            print(
                f"| {r['shape']} | {r['cache']} | {r['nfe']} | {r['query_rows']} | {r['wall_s']:.2f} | "
                f"{r['cpu_s']:.2f} | {r['spread']:.0%} | {r['tokens_per_s']:.1f} | {r['first_over_this_wall']:.2f} | "
                f"{r['first_over_this_cpu']:.2f} |",
                flush=True,
            )
            store(options.out, {"bench": "engine", "dtype": options.dtype, **facts, **r})


if __name__ == "__main__":
    main()
