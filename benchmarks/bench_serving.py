"""Many requests at once against the same requests one at a time, and what the planning half costs beside the loop.

    python -m benchmarks.bench_serving [--shapes s,m] [--requests 16] [--dtype bfloat16] [--threads 2] [--repeats 3]

Prompts of 16 to 128 and responses of 32 to 128 positions, blocks of 32, three tokens a step; random weights, so the
work is fixed. Before anything is timed the answers must be the same both ways. Overhead: the time outside the compiled
loop, over that inside it.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

from benchmarks.harness import ROOT, environment, interleave, store
from benchmarks.shapes import BLOCK_LENGTH, PROMPT_LENGTH, SHAPES, Shape
from llada_rt import Engine, SamplingParams, _core

CACHES = ("dual", "dual_compact")


def requests_of(shape: Shape, cache: str, count: int) -> list[tuple[list[int], SamplingParams]]:
    """Mixed lengths, the same for each cache."""
    choice, prompt = random.Random(0), 2 * shape.canvas()[:PROMPT_LENGTH]
    requests = []
    for _ in range(count):
        length = choice.choice([32, 64, 96, 128])
        params = SamplingParams(
            preset="quality",
            gen_length=length,
            block_length=BLOCK_LENGTH,
            steps=-(-length // 3),
            cache=cache,
            eos_early_stop=False,
        )
        requests.append((prompt[: choice.randint(16, 128)], params))
    return requests


def measure(shape: Shape, folder: Path, cache: str, options: argparse.Namespace) -> dict[str, object]:
    prompts, params = map(list, zip(*requests_of(shape, cache, options.requests), strict=True))
    answers: dict[str, list[list[int]]] = {}
    with Engine(folder, compute_type=options.dtype, threads=options.threads, max_num_seqs=options.requests) as engine:

        def one_at_a_time() -> None:
            pairs = zip(prompts, params, strict=True)
            answers["one"] = [engine.generate([p], q)[0].outputs[0].token_ids for p, q in pairs]

        def at_once() -> None:
            answers["all"] = [output.outputs[0].token_ids for output in engine.generate(prompts, params)]

        one_at_a_time()
        at_once()
        if answers["one"] != answers["all"]:
            raise SystemExit(f"{cache}: other tokens at once than alone: not timed")
        timings = interleave({"one": one_at_a_time, "all": at_once}, repeats=options.repeats)
        before, began = engine.stats(), time.perf_counter()
        at_once()
        spent, after = time.perf_counter() - began, engine.stats()
    inside = after.busy_s - before.busy_s
    one, every = timings["one"], timings["all"]
    num_tokens = sum(each.gen_length for each in params)
    return {
        "shape": shape.name,
        "cache": cache,
        "requests": options.requests,
        "one_wall_s": one.wall_s,
        "all_wall_s": every.wall_s,
        "all_tokens_per_s": num_tokens / every.wall_s,
        "one_over_all_wall": one.wall_s / every.wall_s,
        "one_over_all_cpu": one.cpu_s / every.cpu_s,
        "forwards": after.num_forwards - before.num_forwards,
        "rows_per_forward": (after.num_query_rows - before.num_query_rows) / (after.num_forwards - before.num_forwards),
        "overhead": (spent - inside) / inside,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="s,m", help="of " + ", ".join(SHAPES))
    parser.add_argument("--caches", default=",".join(CACHES))
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--threads", type=int, default=_core.default_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_serving.jsonl")
    options = parser.parse_args()
    facts = environment(options.threads)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print("| shape | cache | forwards | rows each | one by one s | at once s | token/s | ratio | CPU | outside |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in options.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            path = SHAPES[name].write(Path(folder))
            for cache in options.caches.split(","):
                r = measure(SHAPES[name], path, cache, options)
                print(
                    f"| {r['shape']} | {r['cache']} | {r['forwards']} | {r['rows_per_forward']:.0f} | "
                    f"{r['one_wall_s']:.2f} | {r['all_wall_s']:.2f} | {r['all_tokens_per_s']:.1f} | "
                    f"{r['one_over_all_wall']:.2f} | {r['one_over_all_cpu']:.2f} | {r['overhead']:.1%} |",
                    flush=True,
                )
                store(options.out, {"bench": "serving", "dtype": options.dtype, **facts, **r})


if __name__ == "__main__":
    main()
