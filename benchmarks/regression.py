"""Whether something has become slower since an earlier report:  llada-rt bench ... --baseline FILE

A measure is slower if its median exceeds the earlier one by more than what either run allows: the larger of their
spreads, at least `floor`, and what the machine itself lost meanwhile (its measured limits). Noise hides what is smaller
than it: the table says how much each measure allowed. A measure that is noisy in one of the runs carries its mark: if
it is slower, measure again before believing it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import slowdown
from benchmarks.noise import MEANING, mark
from benchmarks.report import Report, number, percent, plain_console
from llada_rt import ConfigError

SLOWER = 7  # exit code: a check failed
FLOOR = 0.1  # a smaller change is none
SAME = ("cpu", "threads", "table")  # of the environment: otherwise nothing can be said


@dataclass(frozen=True, slots=True)
class Change:
    """A measure in both reports. Seconds; `allowed` is the share by which it may have grown."""

    system: str
    measure: str
    then_s: float
    now_s: float
    allowed: float
    mark: str = ""  # of noise, in either report

    @property
    def growth(self) -> float:
        return self.now_s / self.then_s - 1

    @property
    def is_slower(self) -> bool:
        return self.growth > self.allowed


@dataclass(frozen=True, slots=True)
class Verdict:
    changes: Sequence[Change]
    missing: Sequence[str]  # systems of the earlier report that gave no speed now

    @property
    def is_slower(self) -> bool:
        return bool(self.missing) or any(change.is_slower for change in self.changes)


def compare(earlier: Report, now: Report, *, floor: float = FLOOR) -> Verdict:
    """ConfigError if they are not of the same thing on the same kind of machine."""
    different = [name for name in SAME if earlier.environment.get(name) != now.environment.get(name)]
    if earlier.bench != now.bench:
        raise ConfigError(f"baseline: expected a report of {now.bench}, got one of {earlier.bench}", param="baseline")
    if different:
        was, is_ = ({name: report.environment.get(name) for name in different} for report in (earlier, now))
        raise ConfigError(f"baseline: measured elsewhere: expected {is_}, got {was}", param="baseline")
    before, after = _by_identity(earlier), _by_identity(now)
    if not before.keys() & after.keys():
        raise ConfigError("baseline: no measure is in both reports: other options?", param="baseline")
    loss = slowdown(earlier.machine, now.machine)
    changes = [c for key, row in before.items() if key in after for c in _changes(row, after[key], floor, loss)]
    lost = [row["system"] for key, row in before.items() if row["wall_s"] and key in after and not after[key]["wall_s"]]
    return Verdict(changes, lost)


def _by_identity(report: Report) -> dict[str, Mapping[str, Any]]:
    """Rows that have a speed, or had: what was asked of whom -> row."""
    keys = ("system", "setting", "batch", "questions")
    return {json.dumps([row.get(key) for key in keys], sort_keys=True): row for row in report.rows}


def _changes(then: Mapping[str, Any], now: Mapping[str, Any], floor: float, loss: float) -> Iterator[Change]:
    if not (then["wall_s"] and now["wall_s"]):
        return
    allowed = (1 + max(floor, then["spread"], now["spread"])) * loss - 1
    noise = mark(then, now)
    yield Change(then["system"], "all answers", then["wall_s"], now["wall_s"], allowed, noise)
    if then["first_text_s"] and now["first_text_s"]:
        yield Change(
            then["system"], "first text", then["first_text_s"]["p50"], now["first_text_s"]["p50"], allowed, noise
        )


def show(verdict: Verdict, console: Console | None = None) -> None:
    console = console or plain_console()
    table = Table(title="against the baseline", title_justify="left", title_style="bold")
    for heading in ("system", "measure", "then ms", "now ms", "change", "allowed", ""):
        table.add_column(heading, justify="left" if heading in ("system", "measure", "") else "right")
    for change in verdict.changes:
        table.add_row(
            change.system,
            change.measure,
            number(1e3 * change.then_s),
            number(1e3 * change.now_s),
            f"{change.growth:+.0%}{change.mark}",
            f"+{percent(change.allowed)}",
            "SLOWER" if change.is_slower else "",
        )
    console.print(table)
    if any(change.mark for change in verdict.changes):
        console.print(f"  {MEANING}", markup=False)
    for system in verdict.missing:
        console.print(f"  {system}: had a speed then, has none now", markup=False)
