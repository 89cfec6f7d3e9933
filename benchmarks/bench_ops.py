"""Single ops of the page (csrc/ops/ops.h): result checked, time, GFLOP/s and GB/s, share of the peak of the same run.

    python -m benchmarks.bench_ops [--op matmul,attention] [--shape m] [--compute-type bfloat16,int8] [--threads 2]
                                   [--table avx2] [--json]

Each case is first held against its float64 twin in tests/reference; one that is off is not timed and ends the program
with code 1. An op is timed inside the compiled module, `--repeats` times a call, so that no conversion of arrays is
counted; the table shows medians over the calls. Operands stay in whatever cache they fit in: bench_step says what they
cost from memory. Products, attention and head are measured against the multiply-add peak of their operands, the others
against the speed of copying arrays from memory (a small array in a cache may beat it).
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.harness import ROOT, Timing, environment, run_to_the_end, store
from benchmarks.machine import CPU_COMPUTE_TYPES
from benchmarks.noise import MEANING, Neighbours, mark
from benchmarks.shapes import CANVAS_LENGTH, SHAPES, Shape
from llada_rt import _core
from llada_rt.folder import quantize
from llada_rt.runtime.runner import default_num_threads
from tests.ops.precision import normal
from tests.reference.attention import attention
from tests.reference.candidates import candidates
from tests.reference.commit import commit
from tests.reference.embed import embed
from tests.reference.matmul import matmul
from tests.reference.rms_norm import rms_norm
from tests.reference.rope import rope_kv_write
from tests.reference.swiglu import swiglu
from tests.tolerance import assert_accurate

ROWS = (1, 8, 32, 192)
EPS, THETA = 1e-5, 10000.0


@dataclass(frozen=True, slots=True)
class Case:
    """One op on one size. `run` gives the result, `check` raises AssertionError if that is wrong."""

    op: str
    size: str
    run: Callable[..., object]  # of the Ops
    check: Callable[[object], None]
    num_bytes: float  # read and written, once each
    flops: float = 0  # 0: bound by memory


def float_type(compute_type: str) -> str:
    """T of the page."""
    return str(_core.ELEMENT_TYPES[compute_type]["rows"])


def element_bytes(compute_type: str) -> int:
    return 4 if float_type(compute_type) == "float32" else 2


def weight_bytes(compute_type: str) -> float:
    return float(_core.ELEMENT_TYPES[compute_type]["weight_bits"]) / 8


def stood_for(ops: "_core.Ops", x: np.ndarray, weight: np.ndarray, compute_type: str) -> tuple[np.ndarray, np.ndarray]:
    """The numbers that the operands of a product stand for in a compute type."""
    if compute_type in ("int8", "int8_bfloat16"):
        weight = quantize.dequantize_int8(*quantize.quantize_int8(weight))
    elif compute_type == "int4":
        weight = quantize.dequantize_int4(*quantize.quantize_int4(weight), weight.shape[1])
    if compute_type == "int8":
        values, scales = ops.quantize(x)
        x = values.astype(np.float64) * scales[:, None]
    return x, weight


def close(dtype: str, want: np.ndarray, magnitude: float | None = None) -> Callable[[object], None]:
    """The rule of the tests, with no help from a plain version: the roundings that the type cannot avoid."""
    return lambda got: assert_accurate(got, want, want, dtype, magnitude=magnitude)


def matrices(shape: Shape) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of the products of a layer."""
    d, mlp = shape.d_model, shape.mlp_hidden_size
    return {"query": (d, d), "key_value": (2 * d, d), "down": (d, mlp)}


def product_cases(shape: Shape, ops: "_core.Ops", kind: str, rng: np.random.Generator) -> Iterator[Case]:
    dtype, size = float_type(kind), element_bytes(kind)
    for name, (num_out, num_in) in matrices(shape).items():
        weight = normal(rng, num_out, num_in, dtype=dtype, scale=num_in**-0.5)
        for rows in ROWS:
            x = normal(rng, rows, num_in, dtype=dtype)
            exact_x, exact_weight = stood_for(ops, x, weight, kind)
            magnitude = float((np.abs(exact_x) @ np.abs(exact_weight).T).max())
            # An int4 weight counts as rounded to bfloat16.
            check = close("bfloat16" if kind == "int4" else "float32", matmul(exact_x, exact_weight), magnitude)
            yield Case(
                "matmul",
                f"{name} {rows} x {num_in} x {num_out}",
                lambda ops, x=x, weight=weight: ops.matmul(x, weight, kind),
                check,
                rows * (num_in * size + num_out * 4) + num_out * num_in * weight_bytes(kind),
                2.0 * rows * num_in * num_out,
            )


def swiglu_cases(shape: Shape, ops: "_core.Ops", kind: str, rng: np.random.Generator) -> Iterator[Case]:
    dtype, size = float_type(kind), element_bytes(kind)
    hidden, d = shape.mlp_hidden_size, shape.d_model
    weight = normal(rng, 2 * hidden, d, dtype=dtype, scale=d**-0.5)
    for rows in ROWS:
        x = normal(rng, rows, d, dtype=dtype)
        exact_x, exact_weight = stood_for(ops, x, weight, kind)
        yield Case(
            "matmul_swiglu",
            f"{rows} x {d} x {2 * hidden}",
            lambda ops, x=x: ops.matmul_swiglu(x, weight, kind, dtype),
            close("bfloat16" if kind == "int4" else dtype, swiglu(matmul(exact_x, exact_weight))),
            rows * (d + hidden) * size + 2 * hidden * d * weight_bytes(kind),
            4.0 * rows * d * hidden,
        )


def head_cases(shape: Shape, ops: "_core.Ops", kind: str, rng: np.random.Generator) -> Iterator[Case]:
    dtype, d = float_type(kind), shape.d_model
    head = normal(rng, shape.vocab_size, d, dtype=dtype, scale=4 * d**-0.5)
    for rows, most in ((1, 0), (8, 0), (32, 0), (32, 20)):
        hidden = normal(rng, rows, d, dtype=dtype)
        positions = np.arange(rows, dtype=np.int32)
        want = candidates(matmul(*stood_for(ops, hidden, head, kind)), positions)

        def check(got: object, want=want) -> None:
            assert isinstance(got, dict)
            # A weight in int4 is rounded once more, which may change what is nearly a tie.
            if kind != "int4":
                assert np.array_equal(got["token"], want.token)
            assert_accurate(got["confidence"], want.confidence, want.confidence, "bfloat16")

        yield Case(
            "candidates",
            f"{rows} x {d} x {shape.vocab_size}" + (f", {most} alternatives" if most else ""),
            lambda ops, hidden=hidden, positions=positions, most=most: ops.candidates(
                hidden, head, kind, positions=positions, num_alternatives=most
            ),
            check,
            rows * d * element_bytes(kind) + shape.vocab_size * d * weight_bytes(kind),
            2.0 * rows * d * shape.vocab_size,
        )


def attention_cases(shape: Shape, ops: "_core.Ops", kind: str, rng: np.random.Generator) -> Iterator[Case]:
    dtype, size = float_type(kind), element_bytes(kind)
    heads, head_dim = shape.config.n_heads, shape.config.head_dim
    for rows, keys in ((1, CANVAS_LENGTH), (32, CANVAS_LENGTH), (192, CANVAS_LENGTH), (32, 1024), (1024, 1024)):
        q, k, v = (normal(rng, n, heads, head_dim, dtype=dtype) for n in (rows, keys, keys))
        spans = np.array([[0, rows, keys]], np.int32)
        yield Case(
            "attention",
            f"{rows} rows, {keys} keys, {heads} x {head_dim}",
            lambda ops, q=q, k=k, v=v, spans=spans: ops.attention(q, k, v, spans, dtype),
            close(dtype, attention(q, k, v, spans), float(np.abs(v).max())),
            2 * (rows + keys) * heads * head_dim * size,
            4.0 * rows * keys * heads * head_dim,
        )


def row_cases(shape: Shape, ops: "_core.Ops", kind: str, rng: np.random.Generator) -> Iterator[Case]:
    """Ops that touch each element once or twice."""
    dtype, size, d = float_type(kind), element_bytes(kind), shape.d_model
    heads, head_dim = shape.config.n_heads, shape.config.head_dim
    table, weight = normal(rng, shape.vocab_size, d, dtype=dtype), normal(rng, d, dtype=dtype)
    for rows in (32, 192):
        tokens = rng.integers(0, shape.vocab_size, rows).astype(np.int32)
        yield Case(
            "embed",
            f"{rows} x {d}",
            lambda ops, tokens=tokens: ops.embed(tokens, table, dtype),
            close("float32", embed(tokens, table)),
            rows * d * (size + 4),
        )
        x = normal(rng, rows, d, dtype="float32")
        yield Case(
            "rms_norm",
            f"{rows} x {d}",
            lambda ops, x=x: ops.rms_norm(x, weight, EPS, dtype),
            close(dtype, rms_norm(x, weight, EPS)),
            rows * d * (4 + size),
        )
        q, k, v = (normal(rng, rows, heads, head_dim, dtype="float32") for _ in range(3))
        positions = np.arange(rows, dtype=np.int32)
        want_q, want_k, want_v = rope_kv_write(q, k, v, positions, rows, THETA)

        def check(got: object, rows=rows, want_q=want_q, want_k=want_k, want_v=want_v) -> None:
            assert isinstance(got, tuple)
            for mine, want in zip(got, (want_q, want_k, want_v), strict=True):
                # An angle is as wrong as its position is large.
                assert_accurate(mine, want, want, dtype, magnitude=rows * float(np.abs(want).max()))

        for op, factor in (("rope", 1), ("rope_kv_write", 2)):
            yield Case(
                op,
                f"{rows} x {factor * d}",
                lambda ops, q=q, k=k, v=v, positions=positions, rows=rows: ops.rope_kv_write(
                    q, k, v, positions, rows, THETA, dtype
                ),
                check,
                rows * factor * d * (4 + size),
            )


def commit_cases(shape: Shape, ops: "_core.Ops", kind: str, rng: np.random.Generator) -> Iterator[Case]:
    for rows in (32, 128):
        canvas = np.full(CANVAS_LENGTH, shape.config.mask_token_id, np.int32)
        positions = np.arange(rows, dtype=np.int32)
        tokens, confidence = rng.integers(0, 1000, rows).astype(np.int32), rng.random(rows)
        rule = dict(count=1, mask_id=shape.config.mask_token_id)
        want, chosen = commit(canvas, positions, tokens, confidence, "top_k", **rule)

        def check(got: object, want=want, chosen=chosen) -> None:
            assert isinstance(got, tuple)
            assert np.array_equal(got[0], want)
            assert np.array_equal(got[1], chosen)

        yield Case(
            "commit",
            f"{rows} candidates",
            lambda ops, canvas=canvas, positions=positions, tokens=tokens, confidence=confidence: ops.commit(
                canvas, positions, tokens, confidence, 0, 1, 0.0, shape.config.mask_token_id
            ),
            check,
            rows * 24,
        )


MAKERS = {
    "embed": row_cases,
    "rms_norm": row_cases,
    "matmul": product_cases,
    "matmul_swiglu": swiglu_cases,
    "rope": row_cases,
    "rope_kv_write": row_cases,
    "attention": attention_cases,
    "candidates": head_cases,
    "commit": commit_cases,
}
WEIGHTED = {"matmul", "matmul_swiglu", "candidates"}  # the others have no weights: a float type says all


def measure_copy(threads: int) -> float:
    """GB/s read and written by copying 64 MiB per thread, the best of ten."""
    pairs = [(np.ones(1 << 26, np.uint8), np.empty(1 << 26, np.uint8)) for _ in range(threads)]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(10):
            began = time.perf_counter()
            list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs))
            best = max(best, 2 * threads * (1 << 26) / (time.perf_counter() - began) / 1e9)
    return best


def measure(
    case: Case, timed: "_core.Ops", rounds: int, threads: int, peak: float, copy: float, foreign: float | None = None
) -> dict:
    """`foreign`: what other programs took of the processors."""
    samples = []
    for _ in range(rounds + 1):
        timed.trace()
        case.run(timed)
        calls, wall_ns, cpu_ns = timed.trace()[case.op]
        samples.append((wall_ns / calls / 1e9, cpu_ns / calls / 1e9))
    wall, cpu = (statistics.median(column) for column in zip(*samples[1:], strict=True))
    gflops, gb = case.flops / wall / 1e9, case.num_bytes / wall / 1e9
    walls = tuple(sample[0] for sample in samples[1:])
    return {
        "op": case.op,
        "size": case.size,
        "wall_us": wall * 1e6,
        "cpu_us": cpu * 1e6,
        **Timing(walls, (), foreign).noise,
        "gflops": gflops if case.flops else None,
        "gb_per_s": gb,
        "of": "multiply-adds" if case.flops else "copying",
        "share": gflops / peak if case.flops else gb / copy,
        # As if all threads had worked all the time: what a busy machine leaves to compare.
        "cpu_share": case.flops / (cpu / threads) / 1e9 / peak if case.flops else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", default=",".join(MAKERS), help="of " + ", ".join(MAKERS))
    parser.add_argument("--shape", choices=list(SHAPES), default="m")
    parser.add_argument("--compute-type", default="bfloat16", help="of " + ", ".join(CPU_COMPUTE_TYPES))
    parser.add_argument("--table", choices=_core.tables(), default=_core.tables()[0])
    parser.add_argument("--threads", type=int, default=default_num_threads())
    parser.add_argument("--repeats", type=int, default=20, help="runs of an op in a call")
    parser.add_argument("--rounds", type=int, default=5, help="calls")
    parser.add_argument("--json", action="store_true", help="one JSON object per line in place of the table")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_ops.jsonl")
    options = parser.parse_args()
    wanted = options.op.split(",")
    if unknown := [op for op in wanted if op not in MAKERS]:
        parser.error(f"--op: expected some of {', '.join(MAKERS)}, got {', '.join(unknown)}")
    ops = _core.Ops(options.table, options.threads)
    timed = _core.Ops(options.table, options.threads, repeats=options.repeats)
    facts = environment(options.threads) | {"table": options.table}
    neighbours = Neighbours()  # of the whole run: an op takes no longer than the system's clock tells apart
    copy = measure_copy(options.threads)
    if not options.json:
        print(", ".join(f"{key} {value}" for key, value in facts.items()))
        print(MEANING)
    failed = 0
    for index, kind in enumerate(options.compute_type.split(",")):
        peak = ops.measure_peak(_core.ELEMENT_TYPES[kind]["operand"])
        if not options.json:
            print(f"\n{kind}: {peak:.0f} GFLOP/s at best, copying {copy:.0f} GB/s\n")
            print("| op | size | us | CPU us | spread | GFLOP/s | GB/s | share | by CPU | of |")
            print("|---|---|---|---|---|---|---|---|---|---|")
        names = [op for op in wanted if index == 0 or op in WEIGHTED]
        for maker in dict.fromkeys(MAKERS[op] for op in names):
            for case in maker(SHAPES[options.shape], ops, kind, np.random.default_rng(0)):
                if case.op not in names:
                    continue
                try:
                    case.check(case.run(ops))
                except AssertionError as error:
                    failed += 1
                    print(f"{kind} {case.op} {case.size}: wrong, not timed: {error}", file=sys.stderr)
                    continue
                r = measure(case, timed, options.rounds, options.threads, peak, copy, neighbours.share())
                store(options.out, {"bench": "ops", "shape": options.shape, "compute_type": kind, **facts, **r})
                if options.json:
                    print(json.dumps({"compute_type": kind, **facts, **r}), flush=True)
                    continue
                gflops, by_cpu = (f"{r['gflops']:.0f}", f"{r['cpu_share']:.0%}") if r["gflops"] else ("", "")
                print(
                    f"| {r['op']} | {r['size']} | {r['wall_us']:.1f} | {r['cpu_us']:.1f} | "
                    f"{r['spread']:.0%}{mark(r)} | {gflops} | {r['gb_per_s']:.1f} | "
                    f"{r['share']:.0%} | {by_cpu} | {r['of']} |",
                    flush=True,
                )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    run_to_the_end(main)
