"""An engine as it is timed: opened with the variables that choose its kernels, on a stream of torch with an event
before and after. What lies between these encloses the device's waits for the host: how long it works is for
`kernels.py`.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.flight import Flight
from benchmarks.gpu.steps import SMALL, Sizes
from llada_rt import _core
from llada_rt.runtime import device

# How a runtime is opened: a name, and the variables that say so (csrc/cuda reads them then).
TIERS: dict[str, dict[str, str]] = {
    "default": {},
    "plain": {"LLADA_CUDA_PRODUCTS": "plain"},
    "late launch": {"LLADA_CUDA_EARLY_LAUNCH": "0"},
}
PREPARED_ROUNDS = 2  # of a shape: the second records its graph


def table_of(flight: Flight) -> str:
    """The table "cuda", known from now on; in a dry run the imitation's, or the processor's where that is not built."""
    if not flight.dry:
        missing = device.missing_cuda()
        if missing is not None:
            raise RuntimeError(f"no GPU: {missing}")
        return device.CUDA_TABLE
    import pytest

    from tests import cuda_host

    try:
        cuda_host.add_table()
    except (pytest.fail.Exception, pytest.skip.Exception) as error:
        flight.record("imitation", skipped=True, why=str(error)[:200])
        return device.cpu_tables()[0]
    return device.CUDA_TABLE


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Variables of the environment that hold for a moment."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds of one run; device: between two events around it, None without a GPU."""

    wall: float
    device: float | None


@dataclass
class Samples:
    """Runs of one thing."""

    taken: list[Taken] = field(default_factory=list)

    @property
    def wall_s(self) -> float:
        return statistics.median(each.wall for each in self.taken)

    def fields(self, parts: int = 1) -> dict[str, Any]:
        """Fields of a record: medians, for each of the `parts` that a run has."""
        walls = [each.wall for each in self.taken]
        on_device = [each.device for each in self.taken if each.device is not None]
        median = statistics.median(walls)
        device_s = statistics.median(on_device) if on_device else None
        return {
            "ms": median / parts * 1e3,
            "spread": (max(walls) - min(walls)) / median,
            "rounds": len(walls),
            "device_ms": None if device_s is None else device_s / parts * 1e3,
        }


class Rig:
    """A runtime and its stream. `close` it."""

    def __init__(self, flight: Flight, folder: Path, table: str, compute_type: str, tier: str = "default") -> None:
        self.compute_type, self.tier = compute_type, tier
        self.stream = torch.cuda.Stream() if flight.device == "cuda" else None
        self.free_before = free_bytes()
        began = time.perf_counter()
        with variables(TIERS[tier]):
            handle = self.stream.cuda_stream if self.stream else 0
            self.runtime = _core.Runtime(str(folder), compute_type=compute_type, table=table, stream=handle)
        self.load_s = time.perf_counter() - began

    def reserve(self, num_slots: int, sizes: Sizes) -> None:
        """K/V for so many canvases; the arena that was there goes."""
        self.runtime.reserve_kv(num_slots * self.runtime.kv_slot_bytes(sizes.canvas))

    def timed(self, run: Callable[[], object]) -> Taken:
        """A run that ends when the engine has its results on the host."""
        if self.stream is None:
            began = time.perf_counter()
            run()
            return Taken(time.perf_counter() - began, None)
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        self.stream.synchronize()
        began = time.perf_counter()
        events[0].record(self.stream)
        run()
        wall = time.perf_counter() - began
        events[1].record(self.stream)
        events[1].synchronize()
        return Taken(wall, events[0].elapsed_time(events[1]) / 1e3)

    def close(self) -> None:
        self.runtime.close()


def free_bytes() -> int | None:
    """Bytes of the GPU that nobody has taken; None without a GPU."""
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None


def sizes_of(flight: Flight) -> Sizes:
    return SMALL if flight.small else Sizes()
