"""What a run has found: a row for each setting, and the table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..json_values import JsonValue
from .halving import Outcome, Tally, choose, front
from .intervals import questions_needed, wilson

Quality = Literal["answers", "judge", "agreement"]


@dataclass(frozen=True, slots=True)
class TuneRow(JsonValue):
    """What one setting was seen to do.

    Attributes:
        name: The setting in words; "exact" for the exact decoder.
        options: Its options, as SamplingParams takes them.
        asked: Questions whose answers were judged.
        right: The share of them that is right, or with `agreement` kept.
        low: Lower end of the 95 % interval of `right` (Wilson).
        high: Upper end of that interval.
        tokens_per_s: Tokens of text a second inside the compiled loop.
        tokens_per_forward: Tokens committed, divided by forwards.
        speedup: `tokens_per_s` over that of the exact decoder.
        same: With `agreement`, the share of answers whose tokens are those of the exact decoder; else None.
        nats: With `agreement`, how much likelier a token is than one of the exact answers on average, in nats; None:
            not known.
        state: "final" if the setting was asked to the end, else "dropped".
        on_front: No other setting asked to the end is both faster and better.
    """

    name: str
    options: Mapping[str, Any]
    asked: int
    right: float
    low: float
    high: float
    tokens_per_s: float
    tokens_per_forward: float
    speedup: float
    same: float | None
    nats: float | None
    state: Literal["final", "dropped"]
    on_front: bool


@dataclass(frozen=True, slots=True)
class TuneReport(JsonValue):
    """What `Engine.tune` has found.

    Attributes:
        chosen: The row of the fastest setting that keeps enough.
        keep: The share of the exact decoder's quality that was to be kept.
        is_sure: The whole interval of the chosen setting is above the floor.
        rows: The exact decoder, the settings asked to the end, the fastest first, and those dropped earlier.
        untried: Names of settings that the budget did not reach.
        quality: What counts: right `answers`, what a `judge` says of them, or `agreement` with the exact decoder.
        num_questions: Prompts that were given.
        batch: Prompts that ran together.
        budget_s: Seconds that the run might take.
        spent_s: Seconds that its trials took, those of an interrupted run before it too.
        machine: Facts of the engine: device, compute_type, threads, table, num_parameters, version.
        record: What generation_config.json says now under "llada_rt".
        files: The files written, by what they are: record, table, figure, report, state.
    """

    chosen: TuneRow
    keep: float
    is_sure: bool
    rows: tuple[TuneRow, ...]
    untried: tuple[str, ...]
    quality: Quality
    num_questions: int
    batch: int
    budget_s: float
    spent_s: float
    machine: Mapping[str, Any]
    record: Mapping[str, Any]
    files: Mapping[str, str]


def rows_of(outcome: Outcome, keep: float, quality: Quality) -> tuple[TuneRow, tuple[TuneRow, ...]]:
    """The chosen row, and all of them."""
    exact, finalists = outcome.exact, sorted(outcome.finalists, key=lambda tally: -tally.speed)
    best = front([exact, *finalists])
    chosen = choose(exact, finalists, keep)

    def row(tally: Tally, state: Literal["final", "dropped"]) -> TuneRow:
        low, high = wilson(tally.right, tally.asked)
        is_compared = quality == "agreement"
        return TuneRow(
            name=tally.setting.name,
            options=dict(tally.setting.options),
            asked=tally.asked,
            right=tally.share,
            low=low,
            high=high,
            tokens_per_s=tally.speed,
            tokens_per_forward=tally.committed / max(1, tally.forwards),
            speedup=tally.speed / exact.speed if exact.speed else 0.0,
            same=tally.same / tally.asked if is_compared and tally.asked else None,
            nats=sum(tally.nats) / len(tally.nats) if is_compared and tally.nats else None,
            state=state,
            on_front=any(tally is one for one in best),
        )

    final = [exact, *finalists]
    rows = [row(tally, "final") for tally in final] + [row(tally, "dropped") for tally in outcome.dropped]
    return rows[next(index for index, tally in enumerate(final) if tally is chosen)], tuple(rows)


def is_sure(chosen: TuneRow, exact: TuneRow, keep: float) -> bool:
    return chosen is exact or chosen.low >= keep * exact.right


def remarks(report: TuneReport) -> list[str]:
    """What a reader must know of the figures, a sentence each."""
    exact, chosen = report.rows[0], report.chosen
    floor = report.keep * exact.right
    what = {
        "answers": "Right is an answer that equals one of those given.",
        "judge": "Right is what the judge says.",
        "agreement": "No answers were given: kept is an answer with the exact decoder's tokens, or one that the model "
        "finds at least as likely a token.",
    }[report.quality]
    said = [what + " Intervals hold the true share in 95 of 100 cases (Wilson)."]
    if chosen.name == exact.name:
        said.append(
            f"No faster setting has {report.keep:g} of the exact decoder's quality: the exact decoder is chosen."
        )
    elif not report.is_sure:
        needed = questions_needed(chosen.right, floor)
        more = f"; some {needed:,} questions would settle it" if needed is not None else ""
        said.append(
            f"The chosen setting reaches the floor of {floor:.1%} by what was counted, but its interval begins at "
            f"{chosen.low:.1%}{more}."
        )
    if len(report.rows) > 2:
        said.append(
            f"It is the best of {len(report.rows)} by the same questions, so its figures are rather too good: "
            "other questions show how much."
        )
    if report.untried:
        said.append(
            f"The budget did not reach {len(report.untried)} of {len(report.untried) + len(report.rows) - 1} settings."
        )
    return said


def columns(quality: Quality) -> list[str]:
    share = "kept" if quality == "agreement" else "right"
    compared = ["same", "nats a token"] if quality == "agreement" else []
    return ["setting", "asked", share, "95 %", *compared, "tokens/s", "times exact", "tokens a forward", ""]


def cells(row: TuneRow, report: TuneReport) -> list[str]:
    """The row as the columns have it."""
    mark = "chosen" if row == report.chosen else "front" if row.on_front else row.state if row.state != "final" else ""
    compared = []
    if report.quality == "agreement":
        compared = ["" if row.same is None else f"{row.same:.1%}", "" if row.nats is None else f"{row.nats:+.3f}"]
    return [
        row.name,
        str(row.asked),
        f"{row.right:.1%}",
        f"{row.low:.1%} to {row.high:.1%}",
        *compared,
        f"{row.tokens_per_s:,.1f}",
        f"{row.speedup:.2f}",
        f"{row.tokens_per_forward:.2f}",
        mark,
    ]


def markdown(report: TuneReport) -> str:
    """The table, and what must be known of it."""
    rows = [columns(report.quality), *(cells(row, report) for row in report.rows)]
    lines = ["# Decoding settings of this model on this machine", ""]
    facts = ", ".join(f"{name} {value}" for name, value in report.machine.items() if value is not None)
    lines += [f"{facts}; {report.num_questions} questions, {report.batch} together; {report.spent_s:.0f} s.", ""]
    lines += [f"Chosen: `{report.chosen.name}`. {' '.join(remarks(report))}", ""]
    lines += ["![speed and quality](front.svg)", ""]
    lines += [_line(rows[0]), "|---|" + "---:|" * (len(rows[0]) - 2) + "---|", *map(_line, rows[1:])]
    return "\n".join(lines) + "\n"


def aligned(report: TuneReport, most: int) -> list[str]:
    """The rows asked to the end, `most` at most, for a terminal."""
    rows = [columns(report.quality), *(cells(row, report) for row in report.rows[:most] if row.state == "final")]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    first, *others = widths
    return [
        "  ".join(
            [row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))]
        ).rstrip()
        for row in rows
    ]


def _line(row: Sequence[str]) -> str:
    return "| " + " | ".join(row) + " |"
