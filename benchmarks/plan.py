"""What a comparison may be told: how long it takes and whom it asks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.engine_system import Engines
from benchmarks.harness import Clock, environment
from benchmarks.machine import measure_machine
from benchmarks.measure import Entry, Interrupted, Outcome, measure
from benchmarks.report import Report
from benchmarks.rivals import rival_entries
from benchmarks.workloads import Workload


@dataclass
class Plan:
    """`quick`: the small version, under two minutes on two cores. `rivals`: names of `rivals.RIVALS`, or URLs."""

    threads: int
    repeats: int = 5
    quick: bool = False
    rivals: tuple[str, ...] | None = None  # None: those that are common for the comparison
    say: Callable[[str], None] = lambda line: None
    clock: Clock = field(default_factory=Clock)
    engines: Engines = field(default_factory=Engines)
    under_way: Report | None = None  # the last one begun: what is kept of an interrupted run

    def rounds(self, quick: int) -> int:
        return min(self.repeats, quick) if self.quick else self.repeats

    def report(self, bench: str, title: str, **options: object) -> Report:
        """An empty one: environment, and the machine's limits measured now."""
        self.under_way = Report(bench, title, environment(self.threads), measure_machine(self.threads), options)
        return self.under_way

    def against(
        self, work: Workload, common: tuple[str, ...], setting: Mapping[str, object] | None = None
    ) -> list[Entry]:
        """The rivals that were asked for, or those common here; `setting` is what rows say of them too."""
        names = common if self.rivals is None else self.rivals
        return rival_entries(work, names, self.threads, setting or {})

    def measure(self, work: Workload, entries: list[Entry], *, batch: int = 1, repeats: int | None = None) -> Outcome:
        self.say(f"{work.name}: {len(entries)} systems, {len(work.questions)} questions")
        try:
            return measure(
                entries,
                work.questions,
                batch=batch,
                repeats=repeats or self.repeats,
                exam=work.exam,
                clock=self.clock,
                say=self.say,
                what=work.name,
            )
        except Interrupted as stop:
            if self.under_way is not None:
                add(self.under_way, stop.outcome)
            raise


def add(report: Report, outcome: Outcome) -> list[dict]:
    """Puts an outcome into a report; returns its rows there, for what is to be added to them."""
    rows = [row.to_dict() for row in outcome.measured]
    report.rows += rows
    report.skipped += [line for line in outcome.skipped if line not in report.skipped]
    return rows
