"""What the device does in a step, kernel by kernel, and how long it waits: by CUPTI through torch's profiler, which
sees the kernels of our module too, those in graphs among them.
"""

import math
import os
import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from benchmarks.gpu.flight import Flight
from benchmarks.gpu.rig import PREPARED_ROUNDS, Rig
from benchmarks.gpu.steps import Sizes, Steps

PROFILED_STEPS = 3
MOST_LETTERS = 90

# A profiler may crash when it is started a second time in one process beside graphs; with these it does not.
SAFE = {"TEARDOWN_CUPTI": "0", "DISABLE_CUPTI_LAZY_REINIT": "1"}


@dataclass(frozen=True, slots=True)
class Event:
    """A kernel, a copy or a fill on the device; microseconds on its clock."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Activity:
    """kernels: name -> calls, microseconds, the longest first. Kernels that overlap are each counted whole in `sum_us`,
    once in `busy_us`. `span_us`: from the first's begin to the last's end.
    """

    kernels: dict[str, tuple[int, float]]
    sum_us: float
    busy_us: float
    span_us: float


def activity_of(events: Iterable[Event]) -> Activity:
    kernels: dict[str, tuple[int, float]] = {}
    ordered = sorted(events, key=lambda event: event.begin)
    busy, reached = 0.0, float("-inf")
    for event in ordered:
        calls, total = kernels.get(event.name, (0, 0.0))
        kernels[event.name] = calls + 1, total + event.end - event.begin
        busy += max(0.0, event.end - max(event.begin, reached))
        reached = max(reached, event.end)
    longest_first = dict(sorted(kernels.items(), key=lambda entry: -entry[1][1]))
    total = sum(us for _, us in kernels.values())
    return Activity(longest_first, total, busy, reached - ordered[0].begin if ordered else 0.0)


def short_name(name: str) -> str:
    """A kernel's name without namespaces and arguments. A long one keeps its beginning, the sizes of
    CUTLASS's tile, and a number that keeps it apart from others.
    """
    if name.startswith("Mem"):  # Memcpy, Memset: what is in parentheses says between what
        return name
    plain = re.sub(r"\(int\)|\(anonymous namespace\)::|\b\w+::", "", name.removeprefix("void "))
    short = _without_arguments(plain)
    if len(short) <= MOST_LETTERS:
        return short
    tiles = [tuple(map(int, sizes)) for sizes in re.findall(r"tuple<C<(\d+)>, ?C<(\d+)>, ?C<(\d+)> ?>", plain)]
    tile = "x".join(map(str, max(tiles, key=math.prod))) if tiles else ""
    mark = f"{zlib.crc32(name.encode()) & 0xFFFF:04x}"
    return " ".join(part for part in (short[: MOST_LETTERS - 25] + "...", tile, mark) if part)


def _without_arguments(name: str) -> str:
    """Up to the parenthesis that belongs to the last one."""
    if not name.endswith(")"):
        return name
    depth = 0
    for at in range(len(name) - 1, -1, -1):
        depth += (name[at] == ")") - (name[at] == "(")
        if depth == 0:
            return name[:at]
    return name


def profiled(run: Callable[[], object]) -> list[Event]:
    """What the GPU did meanwhile."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    for name, value in SAFE.items():
        os.environ.setdefault(name, value)
    with profile(activities=[ProfilerActivity.CUDA]) as session:
        run()
    return [
        Event(short_name(event.name), event.time_range.start, event.time_range.end)
        for event in session.events() or ()
        if event.device_type == DeviceType.CUDA
    ]


def record_kernels(flight: Flight, rig: Rig, step_ms: dict[str, float], sizes: Sizes) -> None:
    """A refresh and PROFILED_STEPS refinements at batch 1. `step_ms`: what a step took without the profiler."""
    counts = {"refine": min(PROFILED_STEPS, sizes.steps), "refresh": 1}
    steps = Steps(rig.runtime, flight.shape, 1, replace(sizes, steps=counts["refine"]))
    found: dict[str, list[Event]] = {}
    try:
        for round_ in range(PREPARED_ROUNDS + 1):
            steps.reset()
            for phase in ("refresh", "refine"):  # in this order: a refinement follows a refresh
                run = getattr(steps, phase)
                if round_ < PREPARED_ROUNDS:
                    run()
                else:
                    found[phase] = profiled(run)
    finally:
        steps.close()
    for phase, count in counts.items():
        activity = activity_of(found[phase])
        ms = step_ms.get(phase)
        flight.record(
            "kernels",
            phase=phase,
            compute_type=rig.compute_type,
            tier=rig.tier,
            sum_us_per_step=activity.sum_us / count,
            busy_us_per_step=activity.busy_us / count,
            span_us_per_step=activity.span_us / count,
            step_ms=ms,
            idle_ms=None if ms is None else ms - activity.busy_us / count / 1e3,
            gap_ms=None if ms is None else ms - activity.sum_us / count / 1e3,
        )
        for name, (calls, us) in activity.kernels.items():
            flight.record(
                "kernel",
                phase=phase,
                compute_type=rig.compute_type,
                tier=rig.tier,
                name=name,
                calls=round(calls / count, 2),
                us_per_step=round(us / count, 2),
            )
    if not any(found.values()):
        raise RuntimeError("the profiler saw no kernel (is CUPTI there?)")
