"""What every benchmark does the same way:

interleaved runs, medians, the facts of the machine, one JSON line per result.
"""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.noise import Neighbours, reasons
from benchmarks.progress import Progress
from llada_rt import LladaRtError, _core

ROOT = Path(__file__).resolve().parents[1]
VARIABLES = ("OMP_NUM_THREADS", "GOMP_SPINCOUNT")  # which change how packages with OpenMP wait
PACKAGES = ("torch", "transformers", "llama-cpp-python")  # whose versions a number depends on


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per run. CPU time is that of the whole process: time slices lost to other programs don't count."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]
    foreign_share: float | None = None  # of the processors, that other programs took meanwhile; None: not known

    @property
    def wall_s(self) -> float:
        return statistics.median(self.wall)

    @property
    def cpu_s(self) -> float:
        return statistics.median(self.cpu)

    @property
    def spread(self) -> float:
        """(largest - smallest) / median of the wall times."""
        return (max(self.wall) - min(self.wall)) / self.wall_s

    @property
    def noise(self) -> dict[str, object]:
        """What a row says of how far it can be trusted (noise.py)."""
        return {
            "spread": self.spread,
            "foreign_share": self.foreign_share,
            "noisy": reasons(self.spread, self.foreign_share),
        }


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds of wall and of processor time; tests bring their own."""

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time


def interleave(
    runs: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warm_up: bool = True,
    clock: Clock | None = None,
    what: str = "timing",
) -> dict[str, Timing]:
    """Times the runs in turn, `repeats` rounds: a change of load hits all alike. Long ones say on stderr how far it is.

    `warm_up`: after a round that is thrown away; without it the caller has run everything once.
    """
    clock = clock or Clock()
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    rounds = range(0 if warm_up else 1, repeats + 1)
    progress = Progress(what, len(rounds) * len(runs))
    neighbours = Neighbours()
    try:
        for round_ in rounds:
            if round_ == 1:
                neighbours = Neighbours()  # what went on while the runs warmed up does not matter
            for name, run in runs.items():
                progress.step(name)
                wall, cpu = clock.wall(), clock.cpu()
                run()
                if round_:
                    samples[name].append((clock.wall() - wall, clock.cpu() - cpu))
    finally:
        progress.close()
    foreign = neighbours.share()
    return {
        name: Timing(tuple(wall for wall, _ in taken), tuple(cpu for _, cpu in taken), foreign)
        for name, taken in samples.items()
    }


def run_to_the_end(main: Callable[[], None]) -> None:
    """The whole of a benchmark that stores each result as it comes: Ctrl-C says what is kept and leaves with 130."""
    try:
        main()
    except LladaRtError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        kept = f"results that were whole are kept in {_stored_in}: {_num_stored}" if _stored_in else "nothing is kept"
        print(f"interrupted: {kept}", file=sys.stderr)
        sys.exit(130)


def environment(threads: int) -> dict[str, object]:
    """Where and when: what a number means nothing without."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": (commit.stdout.strip() or "unknown") + ("+" if changed.stdout.strip() else ""),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "load": round(os.getloadavg()[0], 1),
        "table": _core.tables()[0],
        "compiler": _core.build_info()["compiler"],
        "python": platform.python_version(),
        **{name: version for name in PACKAGES if (version := package_version(name))},
        **{name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


_num_stored, _stored_in = 0, None  # by this process: what an interrupted run says is kept


def store(path: Path, record: Mapping[str, object]) -> None:
    """Appends one JSON line."""
    global _num_stored, _stored_in
    _num_stored, _stored_in = _num_stored + 1, path
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def last_runs(path: Path, keep: Callable[[dict], bool] = lambda record: True) -> dict[tuple[str, int], dict[str, dict]]:
    """(shape, threads) -> who -> record, of the last run of each; a run is one date. Reads what `store` has written."""
    runs: dict[tuple[str, int], dict[str, dict]] = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if "who" not in record or not keep(record):
            continue
        key = record["shape"], record["threads"]
        if key not in runs or next(iter(runs[key].values()))["date"] != record["date"]:
            runs[key] = {}
        runs[key][record["who"]] = record
    return runs
