"""What a GPU does with a masked diffusion model of LLaDA-8B's shape: steps against the machine's roofs, tokens per
second against the loops in torch.

    python -m benchmarks.bench_cuda [--shape 8b] [--compute-types bfloat16,float8] [--output FILE.json] [--quick]

Random weights. Roofs are measured in the same run: bytes a second of a large copy, operations a second of a large
product in torch. A step's share is the time that the larger of its two terms (`cost_model.py`) would take at the roof,
over the time it took. Device time is between two events on the stream that the engine was given; what is left of the
wall time is the host's. Fixed work: k tokens committed a step, whatever they are.

Logits are checked against torch float32 on a small shape before anything is timed. `benchmarks/gpu_check.sh` runs this
after the tests.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.baselines.arm_cuda_torch import GraphedArm
from benchmarks.baselines.fast_dllm_torch import DualCacheLoop
from benchmarks.cost_model import Machine, ModelShape, step_cost
from benchmarks.harness import environment
from benchmarks.shapes import SHAPES, Shape
from llada_rt import _core, device
from training.model import LLaDA

EIGHT_B = Shape("8b", d_model=4096, n_layers=32, mlp_hidden_size=12288, vocab_size=126464)
BLOCK = 32
CANVAS = 512
STEPS = 16  # of a block, timed together
WEIGHT_BYTES = {"bfloat16": 2.0, "float8": 1.0, "int8": 1.0, "int8_bfloat16": 1.0, "int4": 0.625}
# Matrix rate against that of bfloat16.
RATE = {"bfloat16": 1.0, "float8": 2.0, "int8": 2.0, "int8_bfloat16": 1.0, "int4": 1.0}


@dataclass(frozen=True, slots=True)
class Roofs:
    """bandwidth: bytes a second, read plus written; bf16_rate: operations a second."""

    bandwidth: float
    bf16_rate: float


def median_s(run: Callable[[], object], repeats: int, wait: Callable[[], object]) -> float:
    times = []
    for _ in range(repeats):
        wait()
        began = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def measure_roofs(num_bytes: int = 2**32, size: int = 8192) -> Roofs:
    source = torch.randint(0, 255, (num_bytes,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    copy_s = median_s(lambda: target.copy_(source), 10, torch.cuda.synchronize)
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    for _ in range(5):
        torch.matmul(a, b)
    product_s = median_s(lambda: torch.matmul(a, b), 10, torch.cuda.synchronize)
    return Roofs(2 * num_bytes / copy_s, 2 * size**3 / product_s)


class Steps:
    """`batch` canvases of CANVAS positions whose first block after half of them is denoised together."""

    def __init__(self, runtime: "_core.Runtime", shape: Shape, batch: int, canvas: int = CANVAS) -> None:
        self.runtime, self.batch, self.length = runtime, batch, canvas
        self.block = (canvas // 2, canvas // 2 + BLOCK)
        prompt = shape.text(self.block[0])
        self.canvas = np.array([*prompt, *[shape.config.mask_token_id] * (canvas - len(prompt))], np.int32)
        self.plan = np.zeros(batch, _core.SEQUENCE_DTYPE)
        self.plan["guide_slot"] = -1
        self.plan["block_start"], self.plan["block_stop"] = self.block
        self.plan["num_masked"] = self.plan["num_steps"] = BLOCK
        self.plan["mask_id"] = shape.config.mask_token_id
        for name in ("suppressed_token", "unconfident_token_0", "unconfident_token_1"):
            self.plan[name] = -1
        self.plan["slot"] = [runtime.open_slot(self.canvas) for _ in range(batch)]

    def close(self) -> None:
        for slot in self.plan["slot"].tolist():
            self.runtime.close_slot(slot)

    def _run(self, span: tuple[int, int], first: int, num_steps: int) -> None:
        spans = np.array([(*span, self.length)] * self.batch, _core.SPAN_DTYPE)
        rows = np.arange(self.batch)
        for name in ("first", "next"):
            self.plan[f"{name}_begin"], self.plan[f"{name}_end"] = rows, rows + 1
        self.plan["next_step"] = self.plan["step"] = first
        outcomes, _ = self.runtime.denoise(self.plan, spans, num_steps)
        assert (outcomes["num_steps"] == num_steps).all()

    def refresh(self) -> None:
        """All positions of all canvases, with the block all masks again."""
        for slot in self.plan["slot"].tolist():
            self.runtime.write_slot(slot, self.canvas)
        self._run((0, self.length), 0, 1)

    def refine(self) -> None:
        self._run(self.block, 1, STEPS)


class Events:
    """Seconds that the device worked, between two events on the engine's stream (cuda-python)."""

    def __init__(self, index: int) -> None:
        from cuda.core import Device, EventOptions

        self.device = Device(index)
        self.device.set_current()
        self.stream = self.device.create_stream()
        try:
            self.options = EventOptions(timing_enabled=True)
        except TypeError:  # before cuda-core 1.2
            self.options = EventOptions(enable_timing=True)

    def seconds(self, run: Callable[[], object]) -> float:
        before = self.stream.record(options=self.options)
        run()
        after = self.stream.record(options=self.options)
        after.sync()
        return (after - before) / 1e3


def check_logits(folder: Path, shape: Shape, compute_type: str) -> float:
    """Root of the mean square error of logits over that of torch in bfloat16, both against torch in float32."""
    tokens = torch.tensor([shape.text(96) + [shape.config.mask_token_id] * 32])
    with torch.no_grad():
        truth = LLaDA.from_folder(folder, dtype=torch.float32)(tokens)[0].double()
        plain = LLaDA.from_folder(folder, dtype=torch.bfloat16)(tokens)[0].double()
    runtime = _core.Runtime(str(folder), compute_type=compute_type, table=device.CUDA_TABLE)
    ours = torch.from_numpy(runtime.forward(tokens[0].int().numpy())).double()
    runtime.close()
    ratio = float((ours - truth).square().mean().sqrt() / (plain - truth).square().mean().sqrt())
    allowed = 2.0 if compute_type == "bfloat16" else 20.0  # fewer bits of the weights: bounded, and shown
    if not ratio <= allowed:
        raise SystemExit(f"{compute_type}: logits are off {ratio:.2g} times as far as torch's: not timed")
    return ratio


def measure_steps(runtime: "_core.Runtime", shape: Shape, kind: str, roofs: Roofs, events: Events) -> list[dict]:
    config = shape.config
    model = ModelShape(shape.name, config.d_model, config.n_layers, config.mlp_hidden_size, config.vocab_size)
    machine = Machine("this", roofs.bf16_rate * RATE[kind], roofs.bandwidth, weight_bytes=WEIGHT_BYTES[kind])
    records = []
    for batch in (1, 8, 32):
        steps = Steps(runtime, shape, batch)
        masks = BLOCK - (STEPS + 1) / 2  # with logits, in the mean over the steps timed
        cases = (("refresh", steps.refresh, 1, CANVAS, BLOCK), ("refine", steps.refine, STEPS, BLOCK, masks))
        for name, run, num_steps, rows, head_rows in cases:
            wall, on_device = [], []
            for round_ in range(8):
                steps.refresh()
                began = time.perf_counter()
                device_s = events.seconds(run)
                if round_ >= 3:  # the first rounds record graphs
                    wall.append((time.perf_counter() - began) / num_steps)
                    on_device.append(device_s / num_steps)
            step_s = statistics.median(wall)
            cost = step_cost(model, machine, batch=batch, rows=rows, keys=CANVAS, head_rows=head_rows)
            records.append(
                {
                    "what": f"{name} step",
                    "compute_type": kind,
                    "batch": batch,
                    "ms": step_s * 1e3,
                    "spread": (max(wall) - min(wall)) / step_s,
                    "host_share": 1 - statistics.median(on_device) / step_s,
                    "roof_ms": cost.seconds * 1e3,
                    "share_of_roof": cost.seconds / step_s,
                    "gb_per_s": cost.num_bytes / step_s / 1e9,
                    "tflops": cost.operations / step_s / 1e12,
                }
            )
        steps.close()
    return records


def fixed_work_ours(runtime: "_core.Runtime", shape: Shape, k: int, gen_length: int) -> float:
    """Tokens a second: a block's refresh, then its refinements, k tokens a step; batch 1."""
    prompt = CANVAS - gen_length
    canvas = np.array(shape.text(prompt) + [shape.config.mask_token_id] * gen_length, np.int32)

    def answer() -> None:
        slot = runtime.open_slot(canvas)
        plan = np.zeros(1, _core.SEQUENCE_DTYPE)
        plan["slot"], plan["guide_slot"], plan["mask_id"] = slot, -1, shape.config.mask_token_id
        for name in ("suppressed_token", "unconfident_token_0", "unconfident_token_1"):
            plan[name] = -1
        plan["first_end"], plan["next_begin"], plan["next_end"] = 1, 1, 2
        for start in range(prompt, CANVAS, BLOCK):
            plan["block_start"], plan["block_stop"] = start, start + BLOCK
            plan["num_masked"], plan["num_steps"], plan["commit_start"] = BLOCK, -(-BLOCK // k), start
            spans = np.array([(0, CANVAS, CANVAS), (start, start + BLOCK, CANVAS)], _core.SPAN_DTYPE)
            runtime.denoise(plan, spans, BLOCK)
        assert (runtime.canvas(slot) != shape.config.mask_token_id).all()
        runtime.close_slot(slot)

    for _ in range(3):
        answer()
    return gen_length / median_s(answer, 5, lambda: None)


def fixed_work_torch(model: LLaDA, shape: Shape, k: int, gen_length: int, *, compile: bool) -> float:
    """Fast-dLLM's dual cache as published, in torch bfloat16 with its scaled-dot-product attention."""
    prompt = CANVAS - gen_length
    canvas = shape.text(prompt) + [shape.config.mask_token_id] * gen_length

    def answer() -> None:
        loop = DualCacheLoop(model, canvas, (prompt, prompt + BLOCK), lean=False, compile=compile)
        for start in range(prompt, CANVAS, BLOCK):
            loop.denoise((start, start + BLOCK), -(-BLOCK // k))

    answer()
    return gen_length / median_s(answer, 3, torch.cuda.synchronize)


def measure_fixed_work(runtime: "_core.Runtime", folder: Path, shape: Shape, kind: str, quick: bool) -> list[dict]:
    gen_length, records = 256, []
    ks = (3,) if quick else (1, 3, 8)
    ours = {k: fixed_work_ours(runtime, shape, k, gen_length) for k in ks}
    records += [{"what": "fixed work", "who": f"llada_rt {kind}", "k": k, "tokens_per_s": ours[k]} for k in ks]
    if kind != "bfloat16":
        return records
    torch.set_default_device("cuda")
    model = LLaDA.from_folder(folder, dtype=torch.bfloat16).cuda()
    for compiled in (False,) if quick else (False, True):
        who = "torch Fast-dLLM, compiled" if compiled else "torch Fast-dLLM"
        for k in ks:
            rate = fixed_work_torch(model, shape, k, gen_length, compile=compiled)
            records.append(
                {"what": "fixed work", "who": who, "k": k, "tokens_per_s": rate, "ours_over": ours[k] / rate}
            )
    arm = GraphedArm(model, CANVAS)
    prompt = shape.text(CANVAS - gen_length)
    arm.answer(prompt, gen_length)
    rate = gen_length / median_s(lambda: arm.answer(prompt, gen_length), 3, torch.cuda.synchronize)
    records.append({"what": "fixed work", "who": "torch ARM, graph", "k": 1, "tokens_per_s": rate})
    records[-1]["ours_over"] = {f"k = {k}": ours[k] / rate for k in ks}
    torch.set_default_device("cpu")
    return records


def op_times(runtime: "_core.Runtime", shape: Shape) -> list[dict]:
    """Each op of a refinement step by itself, its launch and the wait for it included."""
    steps = Steps(runtime, shape, 1)
    steps.refresh()
    runtime.set_trace(True)
    steps.refine()
    trace = runtime.trace()
    runtime.set_trace(False)
    steps.close()
    return [
        {"what": "op, alone", "op": op, "calls_per_step": calls / STEPS, "us_per_call": wall / calls / 1e3}
        for op, (calls, wall, _) in trace.items()
        if op != "denoise"
    ]


def table(records: Sequence[dict]) -> str:
    lines = ["| what | of | ms | share of the roof | host | GB/s | TFLOP/s |", "|---|---|---|---|---|---|---|"]
    for r in records:
        if "share_of_roof" in r:
            of = f"{r['compute_type']}, batch {r['batch']}"
            shares = f"{r['share_of_roof']:.0%} | {r['host_share']:.1%}"
            lines.append(f"| {r['what']} | {of} | {r['ms']:.3f} | {shares} | {r['gb_per_s']:.0f} | {r['tflops']:.0f} |")
    lines += ["", "| fixed work | k | tokens/s | ours over it |", "|---|---|---|---|"]
    for r in records:
        if r["what"] == "fixed work":
            over = r.get("ours_over", "")
            text = ", ".join(f"{k}: {v:.2f}" for k, v in over.items()) if isinstance(over, dict) else over
            text = f"{text:.2f}" if isinstance(text, float) else text
            lines.append(f"| {r['who']} | {r['k']} | {r['tokens_per_s']:.1f} | {text} |")
    lines += ["", "| op, alone | calls a step | microseconds |", "|---|---|---|"]
    lines += [f"| {r['op']} | {r['calls_per_step']:.1f} | {r['us_per_call']:.1f} |" for r in records if "op" in r]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="8b", choices=["8b", *SHAPES])
    parser.add_argument("--compute-types", default="bfloat16,float8")
    parser.add_argument("--output", type=Path, default=Path("runs/cuda.json"))
    parser.add_argument("--folder", type=Path, default=None, help="for the random weights (a RAM disk is fastest)")
    parser.add_argument("--quick", action="store_true", help="one k, nothing compiled")
    options = parser.parse_args()
    missing = device.missing_cuda()
    if missing is not None:
        print(f"no GPU: {missing}")
        raise SystemExit(4)
    shape = EIGHT_B if options.shape == "8b" else SHAPES[options.shape]
    roofs = measure_roofs()
    report = {"environment": environment(1), "gpu": device.device_facts(0), "roofs": asdict(roofs), "records": []}
    records: list[dict] = report["records"]
    events = Events(0)
    with tempfile.TemporaryDirectory(dir=options.folder) as base:
        small = SHAPES["s"].write(Path(base) / "small")
        folder = shape.write(Path(base) / "model", device="cuda")
        for kind in options.compute_types.split(","):
            error = check_logits(small, SHAPES["s"], kind)
            records.append({"what": "error over torch bfloat16's", "compute_type": kind, "ratio": error})
            began = time.perf_counter()
            runtime = _core.Runtime(
                str(folder),
                compute_type=kind,
                table=device.CUDA_TABLE,
                stream=device.stream_handle(events.stream),
            )
            records.append({"what": "load", "compute_type": kind, "s": time.perf_counter() - began})
            runtime.reserve_kv(33 * runtime.kv_slot_bytes(CANVAS))
            records.append({"what": "weights", "compute_type": kind, "bytes": runtime.weight_bytes})
            records += measure_steps(runtime, shape, kind, roofs, events)
            records += measure_fixed_work(runtime, folder, shape, kind, options.quick)
            if kind == "bfloat16":
                records += op_times(runtime, shape)
            runtime.close()
            torch.cuda.empty_cache()
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(report, indent=1))
    print(f"{report['gpu']['name']}: {roofs.bandwidth / 1e9:.0f} GB/s, {roofs.bf16_rate / 1e12:.0f} TFLOP/s bfloat16\n")
    print(table(records))


if __name__ == "__main__":
    main()
