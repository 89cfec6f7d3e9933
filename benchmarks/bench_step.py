"""Time of one denoising step, whole and phase by phase, beside the Fast-dLLM step in torch in the same run.

    python -m benchmarks.bench_step [--shapes s,m,l] [--compute-type bfloat16] [--threads 2] [--repeats 5]

Kinds of step on a canvas of 64 prompt and 128 response positions, with blocks of 32: `refresh` recomputes the canvas
(192 rows), `refine` the block (32 rows, dual cache), `compact` of the block what is masked or was just committed (the
first 16 steps after the refresh). Random weights, batch 1. GFLOP/s counts the arithmetic that our step needs (logits
for masked rows only) and divides it by each one's time, so it compares like with like; the share is of the peak of the
multiply-adds in question, the best of 200 bursts in the same round, and the median of the rounds. Logits are checked
before anything is timed.

Phases are timed in rounds of their own, in processor time: products (with SwiGLU), attention (with RoPE and the K/V
write), head (logits, confidence, choice), rest.
"""

import argparse
import gc
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.harness import ROOT, Timing, environment, interleave, run_to_the_end, store
from benchmarks.machine import CPU_COMPUTE_TYPES
from benchmarks.noise import MARK, MEANING, doubts, mark
from benchmarks.shapes import BLOCK_LENGTH, CANVAS_LENGTH, SHAPES, Shape
from benchmarks.step_loops import REFINE_STEPS, CompiledLoop, TorchLoop, check_logits, num_steps
from llada_rt import _core
from llada_rt.runtime.runner import default_num_threads
from training.model import LLaDA

PHASES = {
    "products": ("matmul", "matmul_swiglu"),
    "attention": ("attention", "rope", "rope_kv_write"),
    "head": ("candidates",),
}


def measure(shape: Shape, folder: Path, options: argparse.Namespace) -> list[dict]:
    kind, threads = options.compute_type, options.threads
    operand = _core.ELEMENT_TYPES[kind]["operand"]  # torch runs in bfloat16 beside all but float32
    runtime = _core.Runtime(str(folder), compute_type=kind, num_threads=threads)
    model = LLaDA.from_folder(folder, dtype=torch.float32 if kind == "float32" else torch.bfloat16)
    errors = check_logits(folder, runtime, model, shape, kind)
    gc.collect()
    ours = CompiledLoop(runtime, shape)
    loops = {
        "llada_rt": ours,
        "torch Fast-dLLM": TorchLoop(model, shape, lean=False),
        "torch lean": TorchLoop(model, shape, lean=True),
    }
    peaks: list[float] = []
    runs: dict[str, Callable[[], object]] = {"peak": lambda: peaks.append(_core.measure_peak(operand, threads))}
    for step in ("refresh", "refine"):
        runs |= {f"{step}/{name}": getattr(loop, step) for name, loop in loops.items()}
    # A compact run needs a block full of masks, as the refine run does.
    runs |= {"again": ours.refresh, "compact/llada_rt": ours.compact}
    timings = interleave(runs, repeats=options.repeats)
    phases = measure_phases(ours, options.repeats)
    masks = BLOCK_LENGTH - 1 - (REFINE_STEPS - 1) / 2  # masked rows of a refine step, on average
    flops = {
        "refresh": shape.flops(CANVAS_LENGTH, BLOCK_LENGTH),
        "refine": shape.flops(BLOCK_LENGTH, masks),
        "compact": shape.flops(masks + 1, masks),
    }
    rows = []
    for name in runs:
        step, _, who = name.partition("/")
        if who:
            of_ours = timings[f"{step}/llada_rt"]
            rows.append(row(shape, step, who, timings[name], of_ours, flops[step], peaks[-options.repeats :]))
            rows[-1] |= (errors | {"phases_cpu_ms": phases[step]}) if who == "llada_rt" else {}
    return rows


def measure_phases(loop: CompiledLoop, repeats: int) -> dict[str, dict[str, float]]:
    """Kind of step -> phase -> milliseconds of processor time a step, medians."""
    samples: dict[str, list[dict[str, float]]] = {"refresh": [], "refine": [], "compact": []}
    for _ in range(repeats):
        for step in ("refresh", "refine", "refresh", "compact"):
            loop.runtime.set_trace(True)
            getattr(loop, step)()
            spent = {op: cpu_ns / 1e6 for op, (_, _, cpu_ns) in loop.runtime.trace().items()}
            of_phase = {phase: sum(spent.get(op, 0.0) for op in ops) for phase, ops in PHASES.items()}
            of_phase["rest"] = spent["denoise"] - sum(of_phase.values())
            samples[step].append({phase: ms / num_steps(step) for phase, ms in of_phase.items()})
    loop.runtime.set_trace(False)
    return {
        step: {phase: statistics.median(sample[phase] for sample in taken) for phase in taken[0]}
        for step, taken in samples.items()
    }


def row(shape: Shape, step: str, who: str, timing: Timing, ours: Timing, flops: float, peaks: list[float]) -> dict:
    """`peaks`: GFLOP/s, of the rounds that were timed."""
    rates = [flops / (wall / num_steps(step)) / 1e9 for wall in timing.wall]
    return {
        "shape": shape.name,
        "step": step,
        "who": who,
        "wall_ms": timing.wall_s / num_steps(step) * 1e3,
        "cpu_ms": timing.cpu_s / num_steps(step) * 1e3,
        **timing.noise,
        "gflops": statistics.median(rates),
        "peak_gflops": statistics.median(peaks),
        "share": statistics.median(rate / peak for rate, peak in zip(rates, peaks, strict=True)),
        "over_ours_wall": timing.wall_s / ours.wall_s,
        "over_ours_cpu": timing.cpu_s / ours.cpu_s,
        "over_ours_noisy": doubts(timing.noise, ours.noise),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(SHAPES), help="of " + ", ".join(SHAPES))
    parser.add_argument("--compute-type", choices=CPU_COMPUTE_TYPES, default="bfloat16")
    parser.add_argument("--threads", type=int, default=default_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_step.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    facts = environment(options.threads)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(MEANING)
    phases = [*PHASES, "rest"]
    print("| shape | step | who | ms | CPU ms | spread | GFLOP/s | of peak | time / ours | CPU / ours | ", end="")
    print(" | ".join(phases), "|")
    print("|---" * (10 + len(phases)) + "|")
    for name in options.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            shape = SHAPES[name]
            results = measure(shape, shape.write(Path(folder)), options)
        for r in results:
            print(
                f"| {r['shape']} | {r['step']} | {r['who']} | {r['wall_ms']:.1f} | {r['cpu_ms']:.1f} | "
                f"{r['spread']:.0%}{mark(r)} | {r['gflops']:.0f} | {r['share']:.0%} | {r['over_ours_wall']:.2f}"
                f"{MARK if r['over_ours_noisy'] else ''} | "
                f"{r['over_ours_cpu']:.2f} | "
                + " | ".join(f"{r['phases_cpu_ms'][phase]:.2f}" if "phases_cpu_ms" in r else "" for phase in phases)
                + " |",
                flush=True,
            )
            store(options.out, {"bench": "step", "compute_type": options.compute_type, **facts, **r})


if __name__ == "__main__":
    run_to_the_end(main)
