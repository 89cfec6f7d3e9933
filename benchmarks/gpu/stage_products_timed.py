"""How long each kernel of a product takes, forced, at the weight shapes of LLaDA-8B: what choices are made of.

Launches are recorded into a graph and replayed between two events. Weights take turns among copies that exceed the
second-level cache, so that they come from memory as they do in a step; with the share of the read roof and the rate.
"""

import statistics
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.gpu.flight import Flight
from benchmarks.gpu.operands import Kernel, Operand, Product, kernels_of, rows_of, weight_of
from benchmarks.gpu.stage_products import weights_of

ROWS = (32, 64, 128, 256, 512, 1024)
COPIED_BYTES = 256 << 20  # of weights that take turns, several times the second-level cache
ROUNDS = 5


class Turns:
    """A product whose weights are copied, each copy used once in a graph."""

    def __init__(self, flight: Flight, compute_type: str, rows: int, outputs: int, inputs: int, end: str) -> None:
        draw = flight.normals(0)
        drawn = (draw(outputs, inputs) * inputs**-0.5).bfloat16().float()
        weight = weight_of(drawn, compute_type, paired=end == "swiglu")
        self.weight_bytes = weight.stored.nbytes
        count = 2 if flight.small else max(2, -(-COPIED_BYTES // self.weight_bytes))
        x = rows_of(draw(rows, inputs), compute_type)
        out = torch.zeros(rows, outputs, device=flight.device) if end == "accumulate" else None
        copies = [weight, *(Operand(weight.stored.clone(), weight.meant) for _ in range(count - 1))]
        self.products = [Product(compute_type, x, each, end, out) for each in copies]
        self.flight = flight

    def run_torch(self) -> None:
        """What torch's library makes of it: a plain product with a result in bfloat16."""
        for product in self.products:
            torch.mm(product.x.stored, product.weight.stored.T)

    def run(self, kernel: Kernel, early: bool) -> None:
        stream = 0 if self.flight.dry else torch.cuda.current_stream().cuda_stream
        for product in self.products:
            product.run(kernel, stream, early=early)

    def seconds(self, run: Callable[[], None]) -> tuple[float, float]:
        """Median of one product, and the spread over the rounds."""
        run()
        if self.flight.dry:
            return 0.0, 0.0
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        graph.replay()
        taken = []
        for _ in range(ROUNDS):
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            graph.replay()
            after.record()
            after.synchronize()
            taken.append(before.elapsed_time(after) / 1e3 / len(self.products))
        median = statistics.median(taken)
        return median, (max(taken) - min(taken)) / median


def run(flight: Flight) -> None:
    cutlass = False
    if not flight.dry:
        from llada_rt import _cuda

        cutlass = _cuda.HAS_CUTLASS
    for compute_type in ("bfloat16", "float8"):
        for rows in (33,) if flight.small else ROWS if compute_type == "bfloat16" else (32, 512):
            for name, (outputs, inputs, end) in weights_of(flight).items():
                if name == "attn_out":
                    continue  # the shape of query
                with flight.attempt(f"{name}, {rows} rows, {compute_type}"):
                    turns = Turns(flight, compute_type, rows, outputs, inputs, end)
                    kernels = kernels_of(compute_type, cutlass=cutlass)
                    ways: dict[str, Callable[[], None]] = {
                        str(kernel): partial(turns.run, kernel, kernel.tier == "cutlass_sm90") for kernel in kernels
                    }
                    if compute_type == "bfloat16":
                        ways["torch"] = turns.run_torch
                    for kernel, way in ways.items():
                        seconds, spread = turns.seconds(way)
                        flight.record(
                            "product timed",
                            compute_type=compute_type,
                            weight=name,
                            rows=rows,
                            kernel=kernel,
                            us=seconds * 1e6,
                            spread=spread,
                            gb_per_s=turns.weight_bytes / seconds / 1e9 if seconds else None,
                            tflops=2 * rows * outputs * inputs / seconds / 1e12 if seconds else None,
                        )
