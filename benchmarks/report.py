"""What a benchmark leaves: the environment, a row for each measured system, notes; as JSON, JSON lines and a table."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.noise import MEANING, MOST_FOREIGN, mark
from llada_rt import ConfigError, OutputError

Row = Mapping[str, Any]
Column = tuple[str, Callable[[Row], str]]  # heading, text of a cell

OURS = "ours"  # how the names of our systems begin
LINES = "results.jsonl"


@dataclass
class Report:
    """`bench` is latency, throughput, serve-trace, or one of the three comparisons, which are never mixed."""

    bench: str
    title: str
    environment: Mapping[str, Any]
    machine: Mapping[str, float] = field(default_factory=dict)  # measured limits, see machine.py
    options: Mapping[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)  # sentences made from the rows

    def save(self, folder: Path, *, lines: bool = True) -> Path:
        """Writes BENCH.json and, with `lines`, a line for each row in results.jsonl. OutputError."""
        path = folder / f"{self.bench}.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            if lines:
                with (folder / LINES).open("a", encoding="utf-8") as file:
                    for row in self.rows:
                        record = {"bench": self.bench, **self.environment, **row}
                        file.write(json.dumps(record, ensure_ascii=False) + "\n")
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error}", param="output") from error
        return path


def load_report(path: Path) -> Report:
    """What `save` has written. ConfigError for anything else."""
    try:
        return Report(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", param="baseline") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path}: expected the JSON that an earlier `llada-rt bench` wrote, got something else: {str(error)[:120]}",
            param="baseline",
        ) from error


def is_ours(row: Row) -> bool:
    return row["system"].startswith(OURS)


# ---------------------------------------------------------------- cells


def number(value: float | None, digits: int = 3) -> str:
    """1234.5 -> "1,234", 0.012345 -> "0.0123"; an unknown value is a dash."""
    if value is None:
        return "-"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def percent(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}%}"


def milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else number(1e3 * seconds)


def megabytes(num_bytes: int | None) -> str:
    return "-" if num_bytes is None else f"{num_bytes / 2**20:,.0f}"


def percentiles(of: Mapping[str, float] | None) -> str:
    return "-" if of is None else " / ".join(milliseconds(of[name]) for name in ("p50", "p90", "p99"))


def speed(row: Row) -> str:
    """Tokens a second, or why there are none; figures of less than was asked carry a star, noisy ones their mark."""
    if row["check"]:
        return "check failed"
    return number(row["tokens_per_s"]) + ("*" if row["partial"] else "") + mark(row)


SYSTEM: Column = ("system", lambda r: r["system"])
BATCH: Column = ("batch", lambda r: str(r["batch"]))
SPEED: Column = ("tokens/s", speed)
BY_CPU: Column = ("by CPU", lambda r: number(r["tokens_per_cpu_s"]))
SPREAD: Column = ("spread", lambda r: percent(r["spread"]))
RIGHT: Column = ("right", lambda r: percent(r["share_right"], 1))
PADDING: Column = ("padding", lambda r: percent(r["padding_share"]))
NFE: Column = ("forwards", lambda r: "-" if r["nfe"] is None else f"{r['nfe']:,}")
PER_FORWARD: Column = ("tokens/forward", lambda r: number(r["tokens_per_forward"]))
FIRST_TEXT: Column = ("first text ms", lambda r: milliseconds((r["first_text_s"] or {}).get("p50")))
LATENCY: Column = ("answer ms p50 / p90 / p99", lambda r: percentiles(r["latency_s"]))
MEMORY: Column = ("memory MiB", lambda r: megabytes(r["memory_bytes"]))
COLUMNS: tuple[Column, ...] = (SYSTEM, BATCH, SPEED, SPREAD, PER_FORWARD, PADDING, FIRST_TEXT, LATENCY, MEMORY)


def faults(rows: Iterable[Row]) -> list[str]:
    """A line for each row whose figures are not what they seem, and what the mark of noisy ones means."""
    rows = list(rows)
    lines = [f"{row['system']}: check failed, no speed: {row['check']}" for row in rows if row["check"]]
    lines += [f"{row['system']}: partial (*): {row['partial']}" for row in rows if row["partial"]]
    if not any(mark(row) for row in rows):
        return lines
    others = max((row.get("foreign_share") or 0.0 for row in rows), default=0.0)
    return [*lines, MEANING + (f". Here others took up to {others:.0%}" if others > MOST_FOREIGN else "")]


def plain_console() -> Console:
    """As wide as the terminal; in a file or a pipe as wide as the tables are."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=200)


def show(report: Report, columns: Sequence[Column] = COLUMNS, console: Console | None = None) -> None:
    """The table on stdout, with what must be known beside it."""
    console = console or plain_console()
    table = Table(title=report.title, title_justify="left", title_style="bold")
    for index, (heading, _) in enumerate(columns):
        table.add_column(heading, justify="left" if index == 0 else "right")
    for row in report.rows:
        table.add_row(*(cell(row) for _, cell in columns))
    console.print(table)
    for line in [*faults(report.rows), *report.skipped, *report.findings]:
        console.print(f"  {line}", markup=False)
    console.print("  " + ", ".join(f"{name} {value}" for name, value in report.environment.items()), markup=False)


def markdown(rows: Iterable[Row], columns: Sequence[Column]) -> list[str]:
    lines = ["| " + " | ".join(heading for heading, _ in columns) + " |", "|---" * len(columns) + "|"]
    return lines + ["| " + " | ".join(cell(row) for _, cell in columns) + " |" for row in rows]
