"""What this machine can do at best: multiply-adds a second from registers, bytes a second from memory; measured."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.cost_model import Machine
from llada_rt import _core

READ_BYTES = 64 << 20  # of each thread: more than its share of any cache here
NUM_READS = 24  # the best of them counts
PEAKS = ("float32", "bfloat16", "int8")  # elements of products
# Compute types that the processor has products for.
CPU_COMPUTE_TYPES = [name for name, elements in _core.ELEMENT_TYPES.items() if elements["operand"] in PEAKS]


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
    peaks = {name: max(_core.measure_peak(name, threads) for _ in range(3)) * 1e9 for name in PEAKS}
    return peaks | {"read": measure_read(threads)}


def as_machine(limits: Mapping[str, float], compute_type: str) -> Machine:
    """For the cost model. KeyError for a compute type whose products have no peak among the limits."""
    elements = _core.ELEMENT_TYPES[compute_type]
    weight_bytes, kv_bytes = elements["weight_bits"] / 8, 4.0 if elements["rows"] == "float32" else 2.0
    return Machine(compute_type, limits[elements["operand"]], limits["read"], weight_bytes, kv_bytes)


def slowdown(then: Mapping[str, float], now: Mapping[str, float]) -> float:
    """How many times as fast the machine was, by the limit that has changed most; at least 1."""
    return max([1.0, *(then[name] / now[name] for name in then if now.get(name))])
