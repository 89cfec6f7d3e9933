"""A run of tuning from prompts to record."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InvalidRequestError, LladaRtError
from ..excerpt import excerpt_of
from ..params import SamplingParams
from .figure import draw
from .halving import Halving, Outcome, Progress
from .questions import TEMPLATE_LENGTH, Judge, Question, digest, exact_match, questions_of
from .record import record_of, target_of, write_file, write_record
from .report import Quality, TuneReport, is_sure, markdown, rows_of
from .space import AXES, EXACT, Setting, settings_of, settings_over
from .state import State
from .trial import Answers, Examiner

Check = Callable[[Sequence[Any], Sequence[SamplingParams]], object]
FOLDER = "tuning"  # beside the record: table, figure, report and state


def tune(
    engine: Answers,
    check: Check,
    prompts: object,
    answers: object,
    *,
    model: Path,
    defaults: SamplingParams,
    machine: Mapping[str, Any],
    most_batch: int,
    judge: Judge | None,
    params: object,
    settings: object,
    budget_s: float,
    keep: float,
    batch: int | None,
    out: str | os.PathLike[str] | None,
    restart: bool,
    tell: Callable[[Progress], None] | None,
    clock: Callable[[], float] = time.monotonic,
) -> TuneReport:
    """`Engine.tune` tells the arguments. `check` raises for prompts that cannot be asked; `most_batch`: how many can
    run together.
    """
    budget_s = _number("budget_s", budget_s, "a finite number of seconds above 0", lambda v: v > 0)
    keep = _number("keep", keep, "a number above 0 and at most 1", lambda v: 0 < v <= 1)
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise InvalidRequestError(f"batch: expected a number of prompts from 1, got {excerpt_of(batch)}", param="batch")
    if judge is not None and not callable(judge):
        raise InvalidRequestError(f"judge: expected a function, got {excerpt_of(judge)}", param="judge")
    questions = questions_of(prompts, answers, params, defaults, judge)
    candidates = _candidates(settings, questions, defaults, check)
    target = target_of(model, out)
    has_answers = questions[0].answer is not None
    quality: Quality = "agreement" if not has_answers else "answers" if judge is None else "judge"
    together = min(batch or most_batch, len(questions))
    facts = {
        "questions": digest(questions),
        "quality": quality,
        "judge": getattr(judge, "__qualname__", None) if judge else None,
        "batch": together,
        "weights": _weights(model),
        **machine,
    }
    folder = target / FOLDER
    examiner = Examiner(
        engine, questions, batch=together, judge=(judge or exact_match) if has_answers else None, clock=clock
    )
    with State(folder / "state.jsonl", facts, restart=restart) as state:
        outcome = Halving(
            candidates,
            state.measured(examiner.measure, examiner.remember),
            num_chunks=examiner.num_chunks,
            budget_s=budget_s,
            keep=keep,
            tell=tell or (lambda progress: None),
        ).run()
    report = _report(outcome, keep, quality, questions, defaults, target, machine, together, budget_s)
    write_file(folder / "table.md", markdown(report).encode())
    write_file(folder / "front.svg", draw(report).encode())
    write_file(folder / "report.json", (json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n").encode())
    chosen = report.chosen
    known = {name: getattr(chosen, name) for name in ("asked", "right", "low", "high", "tokens_per_s", "speedup")}
    write_record(target, model, report.record, {"quality": quality, "keep": keep, **known, **machine})
    return report


def _report(
    outcome: Outcome,
    keep: float,
    quality: Quality,
    questions: Sequence[Question],
    defaults: SamplingParams,
    target: Path,
    machine: Mapping[str, Any],
    batch: int,
    budget_s: float,
) -> TuneReport:
    chosen, rows = rows_of(outcome, keep, quality)
    longest = max((question.length for question in questions if question.length != TEMPLATE_LENGTH), default=None)
    names = {"table": "table.md", "figure": "front.svg", "report": "report.json", "state": "state.jsonl"}
    return TuneReport(
        chosen=chosen,
        keep=keep,
        is_sure=is_sure(chosen, rows[0], keep),
        rows=rows,
        untried=tuple(setting.name for setting in outcome.untried),
        quality=quality,
        num_questions=len(questions),
        batch=batch,
        budget_s=budget_s,
        spent_s=outcome.spent_s,
        machine=machine,
        record=record_of(Setting(chosen.name, chosen.options), defaults, longest),
        files={
            "record": str(target / "generation_config.json"),
            **{name: str(target / FOLDER / file) for name, file in names.items()},
        },
    )


def _candidates(
    settings: object, questions: Sequence[Question], defaults: SamplingParams, check: Check
) -> list[Setting]:
    """Settings that can be asked. Every prompt is checked before any is run."""
    in_order = sorted(questions, key=lambda question: question.index)
    first = in_order[0]
    own = None if settings is None else settings_of(settings)
    check([each.prompt for each in in_order], [EXACT.params(each.own, each.length) for each in in_order])
    found: list[Setting] = []
    refused: LladaRtError | None = None
    lengths = {question.length for question in questions}
    for setting in settings_over(AXES, lengths, defaults) if own is None else own:
        try:
            check([first.prompt], [setting.params(first.own, first.length)])
            found.append(setting)
        except InvalidRequestError as error:
            refused = error.within(f"settings: {setting.name}")
            if own is not None:
                raise refused from error
    if not found and refused is not None:
        raise refused
    return found


def _weights(model: Path) -> list[list[int]]:
    """Sizes and times of the files with the weights: other weights, other trials."""
    stats = [path.stat() for path in sorted(model.glob("*.safetensors"))]
    return [[each.st_size, each.st_mtime_ns] for each in stats]


def _number(name: str, value: object, expected: str, holds: Callable[[float], bool]) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not holds(value):
        raise InvalidRequestError(f"{name}: expected {expected}, got {excerpt_of(value)}", param=name)
    return float(value)
