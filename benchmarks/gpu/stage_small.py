"""The proof stages at small shapes, one after the other: what the sanitizers watch. With LLADA_CUDA_PRODUCTS=plain our
own kernels alone: neither CUTLASS nor torch's library multiplies in bfloat16.
"""

import os

from benchmarks.gpu import stage_attention, stage_model, stage_products
from benchmarks.gpu.flight import Flight


def run(flight: Flight) -> None:
    flight.small = True
    own_kernels = os.environ.get("LLADA_CUDA_PRODUCTS") == "plain"
    for run_stage in (
        stage_products.run,
        stage_attention.run,
        stage_model.run_steps if own_kernels else stage_model.run,
    ):
        with flight.attempt(run_stage.__module__):
            run_stage(flight)
