"""What this machine can do at best: multiply-adds a second from registers, bytes a second from memory; measured."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.cost_model import Machine
from llada_rt import _core

READ_BYTES = 64 << 20  # of each thread: more than its share of any cache here
NUM_READS = 24  # the best of them counts
# Compute type -> elements of its products, and bytes of a weight; K and V are bfloat16 but in float32.
PRODUCTS = {"float32": ("float32", 4.0), "bfloat16": ("bfloat16", 2.0), "int8": ("int8", 1.0)}


def measure_read(threads: int) -> float:
    """Bytes a second that `threads` read, the best of some."""
    arrays = [np.ones(READ_BYTES, np.uint8) for _ in range(threads)]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(NUM_READS):
            began = time.perf_counter()
            list(pool.map(np.max, arrays))
            best = max(best, threads * READ_BYTES / (time.perf_counter() - began))
    return best


def measure_machine(threads: int) -> dict[str, float]:
    """Operations a second by element type (`float32`, `bfloat16`, `int8`), and `read`, bytes a second."""
    peaks = {name: max(_core.measure_peak(name, threads) for _ in range(3)) * 1e9 for name, _ in PRODUCTS.values()}
    return peaks | {"read": measure_read(threads)}


def as_machine(limits: Mapping[str, float], compute_type: str) -> Machine:
    """For the cost model. KeyError for a compute type whose products have no peak of their own."""
    products, weight_bytes = PRODUCTS[compute_type]
    return Machine(
        compute_type, limits[products], limits["read"], weight_bytes, 4.0 if compute_type == "float32" else 2.0
    )


def slowdown(then: Mapping[str, float], now: Mapping[str, float]) -> float:
    """How many times as fast the machine was, by the limit that has changed most; at least 1."""
    return max([1.0, *(then[name] / now[name] for name in then if now.get(name))])
