"""The machine's roofs, measured in the run that they are held against, and what a step or an answer would take there.

Reading: the larger of our read kernel and of a copy in torch. Products: torch's of 8192 on random data, which draws the
power that a model's products draw; what the arithmetic units do alone is recorded beside it.
"""

import importlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.cost_model import Cost, Machine, ModelShape, Work, answer_cost, step_cost
from benchmarks.gpu.flight import Flight
from benchmarks.gpu.steps import Sizes, tokens_per_step
from benchmarks.shapes import Shape
from llada_rt import _core
from llada_rt.runtime import device

RATE = {"bfloat16": 1.0, "float8": 2.0, "int8": 2.0}  # of products of these elements, against that of bfloat16


@dataclass(frozen=True, slots=True)
class Roofs:
    """bandwidth: bytes a second; bf16_rate: operations a second."""

    bandwidth: float
    bf16_rate: float

    def machine(self, compute_type: str) -> Machine:
        elements = _core.ELEMENT_TYPES[compute_type]
        rate = self.bf16_rate * RATE[elements["operand"]]
        return Machine("this", rate, self.bandwidth, weight_bytes=elements["weight_bits"] / 8)


def measure_roofs(flight: Flight) -> Roofs | None:
    """Each is recorded; None in a dry run."""
    parts: dict[str, Callable[[], float]] = {
        "read, GB/s": lambda: importlib.import_module("llada_rt._cuda").read_bandwidth(0),
        "copy in torch, GB/s read and written": copy_bandwidth,
        "product in torch, bfloat16, TFLOP/s": product_rate,
        "arithmetic alone, bfloat16, TFLOP/s": lambda: _core.Ops(device.CUDA_TABLE, 1).measure_peak("bfloat16") / 1e3,
    }
    values = {}
    for of, measure in parts.items():
        if flight.dry:
            flight.record("roof", of=of, skipped=True)
            continue
        with flight.attempt(f"roof: {of}"):
            values[of] = measure()
            flight.record("roof", of=of, value=round(values[of], 1))
    read, copied, product, _ = (values.get(of, 0.0) for of in parts)
    torch.cuda.empty_cache()
    if not product or not max(read, copied):
        return None
    return Roofs(max(read, copied) * 1e9, product * 1e12)


def copy_bandwidth(num_bytes: int = 2**32) -> float:
    """GB/s, read plus written."""
    source = torch.randint(0, 255, (num_bytes,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * num_bytes / median_s(lambda: target.copy_(source)) / 1e9


def product_rate(size: int = 8192) -> float:
    """TFLOP/s."""
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    return 2 * size**3 / median_s(lambda: torch.matmul(a, b)) / 1e12


def median_s(run: Callable[[], object]) -> float:
    """The median of ten runs on the GPU, after five that warm up."""
    times = []
    for round_ in range(15):
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if round_ >= 5:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def model_of(shape: Shape) -> ModelShape:
    config = shape.config
    return ModelShape(shape.name, config.d_model, config.n_layers, config.mlp_hidden_size, config.vocab_size)


def step_share(
    shape: Shape, roofs: Roofs | None, compute_type: str, *, phase: str, batch: int, sizes: Sizes, step_s: float
) -> dict[str, Any]:
    """Fields of a record: what the step's larger term takes at the roof, what was reached of it. {} without roofs."""
    if roofs is None:
        return {}
    rows, head_rows = (sizes.canvas, sizes.block) if phase == "refresh" else (sizes.block, sizes.mean_masks)
    machine = roofs.machine(compute_type)
    cost = step_cost(model_of(shape), machine, batch=batch, rows=rows, keys=sizes.canvas, head_rows=head_rows)
    return _share(cost, step_s)


def answer_share(
    shape: Shape, roofs: Roofs | None, compute_type: str, *, k: float, batch: int, sizes: Sizes, answer_s: float
) -> dict[str, Any]:
    """The same of whole answers."""
    if roofs is None:
        return {}
    gen_length = sizes.gen_length(batch)
    work = Work(sizes.canvas - gen_length, gen_length, sizes.block, batch, masked_head=True)
    mean = tokens_per_step(sizes.block, k)
    return _share(answer_cost(model_of(shape), roofs.machine(compute_type), work, "dual", mean), answer_s)


def _share(cost: Cost, seconds: float) -> dict[str, Any]:
    return {
        "roof_ms": cost.seconds * 1e3,
        "share_of_roof": cost.seconds / seconds,
        "gb_per_s": cost.num_bytes / seconds / 1e9,
        "tflops": cost.operations / seconds / 1e12,
    }
