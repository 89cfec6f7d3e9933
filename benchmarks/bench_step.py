"""Time of one denoising step, beside the Fast-dLLM step in torch in the same run.

    python -m benchmarks.bench_step [--shapes s,m,l] [--dtype bfloat16] [--threads 2] [--repeats 5]

Two kinds of step on a canvas of 64 prompt and 128 response positions, with blocks of 32: `refresh` recomputes the
canvas (192 rows), `refine` the block (32 rows, dual cache). Random weights, batch 1. GFLOP/s counts the arithmetic
that our step needs (logits for masked rows only) and divides it by each one's time, so it compares like with like;
the share is of the multiply-add peak measured in the same run. Logits are checked before anything is timed.
"""

import argparse
import gc
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.baselines.fast_dllm_torch import DualCacheLoop
from benchmarks.harness import ROOT, Timing, environment, interleave, store
from benchmarks.shapes import BLOCK_LENGTH, CANVAS_LENGTH, PROMPT_LENGTH, SHAPES, Shape
from llada_rt import _core
from training.model import LLaDA

BLOCK = (PROMPT_LENGTH, PROMPT_LENGTH + BLOCK_LENGTH)
REFINE_STEPS = 16  # of the block's 31 after its refresh; each commits one token
TORCH = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class CompiledLoop:
    """The same canvas and block through the compiled loop."""

    def __init__(self, runtime: "_core.Runtime", shape: Shape) -> None:
        self.runtime, self.canvas = runtime, np.array(shape.canvas(), np.int32)
        self.slot = runtime.open_slot(self.canvas)
        self.plan = np.zeros(1, _core.SEQUENCE_DTYPE)
        self.plan["slot"], self.plan["guide_slot"] = self.slot, -1
        self.plan["block_start"], self.plan["block_stop"] = BLOCK
        self.plan["num_masked"] = self.plan["num_steps"] = BLOCK_LENGTH
        self.plan["mask_id"] = shape.config.mask_token_id
        for name in ("suppressed_token", "unconfident_token_0", "unconfident_token_1"):
            self.plan[name] = -1

    def _run(self, span: tuple[int, int], next_step: int, num_steps: int) -> None:
        spans = np.array([(*span, CANVAS_LENGTH)], _core.SPAN_DTYPE)
        self.plan["first_end"] = self.plan["next_end"] = 1
        self.plan["next_step"] = self.plan["step"] = next_step
        outcomes, _ = self.runtime.denoise(self.plan, spans, num_steps)
        assert outcomes["num_steps"][0] == num_steps

    def refresh(self) -> None:
        """A new slot, so that the block is all masks again."""
        self.runtime.close_slot(self.slot)
        self.slot = self.runtime.open_slot(self.canvas)
        self.plan["slot"] = self.slot
        self._run((0, CANVAS_LENGTH), 0, 1)

    def refine(self) -> None:
        self._run(BLOCK, 1, REFINE_STEPS)


class TorchLoop:
    """The baseline with the same two methods."""

    def __init__(self, model: LLaDA, shape: Shape, *, lean: bool) -> None:
        self.make: Callable[[], DualCacheLoop] = lambda: DualCacheLoop(model, shape.canvas(), BLOCK, lean=lean)
        self.loop = self.make()

    def refresh(self) -> None:
        self.loop = self.make()
        self.loop.refresh(1)

    def refine(self) -> None:
        for _ in range(REFINE_STEPS):
            self.loop.refine(1)


def check_logits(folder: Path, runtime: "_core.Runtime", model: LLaDA, shape: Shape) -> dict[str, float]:
    """Largest error of the block's logits against torch float32 on the same weights; ours at most twice torch's."""
    tokens = torch.tensor([shape.canvas()])
    with torch.no_grad():
        truth = LLaDA.from_folder(folder, dtype=torch.float32)(tokens)[0, slice(*BLOCK)]
        scale = truth.abs().max().item()
        plain = (model(tokens)[0, slice(*BLOCK)].float() - truth).abs().max().item() / scale
    ours = runtime.forward(tokens[0].int().numpy())[slice(*BLOCK)]
    error = np.abs(ours - truth.numpy()).max() / scale
    if not error <= 2 * plain + 1e-5:
        raise SystemExit(f"{shape.name}: logits are off by {error:.2g} (torch {plain:.2g}): not timed")
    return {"error": float(error), "torch_error": plain}


def measure(shape: Shape, folder: Path, dtype: str, threads: int, repeats: int) -> list[dict]:
    runtime = _core.Runtime(str(folder), compute_type=dtype, num_threads=threads)
    model = LLaDA.from_folder(folder, dtype=TORCH[dtype])
    errors = check_logits(folder, runtime, model, shape)
    gc.collect()
    loops = {
        "llada_rt": CompiledLoop(runtime, shape),
        "torch Fast-dLLM": TorchLoop(model, shape, lean=False),
        "torch lean": TorchLoop(model, shape, lean=True),
    }
    peaks: list[float] = []
    runs: dict[str, Callable[[], object]] = {"peak": lambda: peaks.append(_core.measure_peak(dtype, threads))}
    for kind in ("refresh", "refine"):
        runs |= {f"{kind}/{name}": getattr(loop, kind) for name, loop in loops.items()}
    timings = interleave(runs, repeats=repeats)
    masks = BLOCK_LENGTH - 1 - (REFINE_STEPS - 1) / 2  # masked rows of a refine step, on average
    flops = {"refresh": shape.flops(CANVAS_LENGTH, BLOCK_LENGTH), "refine": shape.flops(BLOCK_LENGTH, masks)}
    return [
        row(shape, kind, name, timings[f"{kind}/{name}"], timings[f"{kind}/llada_rt"], flops[kind], max(peaks))
        | (errors if name == "llada_rt" else {})
        for kind in ("refresh", "refine")
        for name in loops
    ]


def row(shape: Shape, kind: str, name: str, timing: Timing, ours: Timing, flops: float, peak: float) -> dict:
    steps = REFINE_STEPS if kind == "refine" else 1
    rate = flops / (timing.wall_s / steps) / 1e9
    return {
        "shape": shape.name,
        "step": kind,
        "who": name,
        "wall_ms": timing.wall_s / steps * 1e3,
        "cpu_ms": timing.cpu_s / steps * 1e3,
        "spread": timing.spread,
        "gflops": rate,
        "peak_gflops": peak,
        "share": rate / peak,
        "over_ours_wall": timing.wall_s / ours.wall_s,
        "over_ours_cpu": timing.cpu_s / ours.cpu_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(SHAPES), help="of " + ", ".join(SHAPES))
    parser.add_argument("--dtype", choices=list(TORCH), default="bfloat16")
    parser.add_argument("--threads", type=int, default=_core.default_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_step.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    facts = environment(options.threads)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print("| shape | step | who | ms | CPU ms | spread | GFLOP/s | of peak | time / ours | CPU / ours |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in options.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            shape = SHAPES[name]
            results = measure(shape, shape.write(Path(folder)), options.dtype, options.threads, options.repeats)
        for r in results:
            print(
                f"| {r['shape']} | {r['step']} | {r['who']} | {r['wall_ms']:.1f} | {r['cpu_ms']:.1f} | "
                f"{r['spread']:.0%} | {r['gflops']:.0f} | {r['share']:.0%} | {r['over_ours_wall']:.2f} | "
                f"{r['over_ours_cpu']:.2f} |",
                flush=True,
            )
            store(options.out, {"bench": "step", "dtype": options.dtype, **facts, **r})


if __name__ == "__main__":
    main()
