"""What makes a figure doubtful: rounds that differ much, the same work at two speeds in one run, and other programs
that ran while it was timed.

A row says what was seen (`spread`, `drift`, `foreign_share`) and, in `noisy`, why it should not be trusted. Tables mark
such figures with MARK, and no ratio with one of them is called met, won or lost.
"""

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MOST_SPREAD = 0.3  # (largest - smallest) / median of the rounds
MOST_FOREIGN = 0.1  # of the processors: what other programs may take meanwhile
MARK = "~"
MEANING = (
    f"{MARK} noisy: rounds, or the same work at two times of a run, differ by more than {MOST_SPREAD:.0%}, or other "
    f"programs took more than {MOST_FOREIGN:.0%} of the processors; no ratio with such a figure counts as met, won or "
    "lost"
)
LEAST_S = 0.5  # of the processors: the system counts in hundredths of a second
PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")


def reasons(spread: float | None, foreign_share: float | None, drift: float | None = None) -> list[str]:
    """`drift`: by what share the same work was faster elsewhere in the run."""
    found = []
    if spread is not None and spread > MOST_SPREAD:
        found.append(f"spread {spread:.0%}")
    if foreign_share is not None and foreign_share > MOST_FOREIGN:
        found.append(f"other programs took {foreign_share:.0%} of the processors")
    if drift is not None and drift > MOST_SPREAD:
        found.append(f"the same work differs by {drift:.0%} within the run")
    return found


def doubts(*rows: Mapping[str, Any]) -> list[str]:
    """Why these rows, or a ratio of them, should not be trusted; nothing: they may be."""

    def most(name: str) -> float | None:
        return max((row[name] for row in rows if row.get(name) is not None), default=None)

    return reasons(most("spread"), most("foreign_share"), most("drift"))


def mark(*rows: Mapping[str, Any]) -> str:
    """To go behind a figure."""
    return MARK if doubts(*rows) else ""


def because(*rows: Mapping[str, Any]) -> str:
    """To go behind a sentence: " (noisy: spread 52%)"."""
    found = doubts(*rows)
    return f" (noisy: {', '.join(found)})" if found else ""


class Neighbours:
    """What other programs take of the processors that this one may run on, from now on."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._began = self._now()

    def share(self) -> float | None:
        """A mean since then, 0 to 1. This process and those that it started are not others; time that the host took
        from a virtual machine is. None where the system does not tell, or too little time has passed for its clock.
        """
        now = self._now()
        if self._began is None or now is None:
            return None
        (began, busy_before, own_before), (ended, busy, own) = self._began, now
        whole = (ended - began) * len(os.sched_getaffinity(0))
        if whole < LEAST_S:
            return None
        return min(1.0, max(0.0, (busy - busy_before) - (own - own_before)) / whole)

    def _now(self) -> tuple[float, float, float] | None:
        """Seconds: of the clock, of the processors at work, of those our own."""
        try:
            own = _own_ticks(self._proc)
            return time.perf_counter(), _busy_ticks(self._proc) / TICKS, own / TICKS
        except (OSError, ValueError, IndexError, KeyError, AttributeError):
            return None


def _busy_ticks(proc: Path) -> int:
    cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    total = 0
    for line in (proc / "stat").read_text().splitlines():
        name, *fields = line.split()
        if name in cores:
            user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
            total += user + nice + system + irq + softirq + steal
    return total


def _own_ticks(proc: Path) -> int:
    """Processor time of this process and its descendants. Descendants count that are over and were waited for."""
    parents, spent = {}, {}
    for path in proc.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it is over by now
            fields = path.read_text().rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(fields[1])
            spent[int(path.parent.name)] = sum(map(int, fields[11:15]))
    own = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in own} - own:
        own |= more
    return sum(spent[pid] for pid in own)
