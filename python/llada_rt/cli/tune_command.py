"""llada-rt tune: the fastest decoding options that keep enough of the quality, found with a file of prompts."""

from __future__ import annotations

import difflib
import runpy
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from ..errors import ConfigError, InvalidRequestError
from ..excerpt import excerpt, excerpt_of
from ..params import ALIASES, SamplingParams
from ..tuning.space import OPEN
from .console import emit, emit_json, say
from .options import ENGINE_FLAGS, PARAMS_FLAGS, with_flags
from .request_commands import Json, Model, open_engine

if TYPE_CHECKING:
    from ..engine import Engine
    from ..tuning.halving import Progress
    from .batch_input import Ask

ANSWER = "answer"
PROMPT_KEYS = ("prompt", "prompt_token_ids", "messages", "chat_template_kwargs", "text", "segments", "open_end")
ROWS = 12  # of the table on the screen
EVERY_S, EVERY_S_ON_A_TERMINAL = 10.0, 0.1
BAR = 24  # characters

OPEN_FLAGS = {name: PARAMS_FLAGS[name] for name in OPEN}

commands = typer.Typer()


@commands.command()
@with_flags(engine_options=ENGINE_FLAGS, params_options=OPEN_FLAGS)
def tune(
    input_file: Annotated[
        str,
        typer.Option(
            "--input",
            metavar="FILE",
            help="A prompt a line, or in a .jsonl file an object with prompt, messages, text or segments, perhaps "
            "answer (a text or a list of texts that are right), and options by their own names. - is stdin.",
            show_default=False,
        ),
    ],
    model: Model = None,
    keep: Annotated[
        float, typer.Option("--keep", help="Share of the exact decoder's quality to keep, above 0 and at most 1.")
    ] = 0.99,
    budget: Annotated[float, typer.Option("--budget", metavar="SECONDS", help="How long it may take.")] = 300.0,
    batch: Annotated[
        int | None, typer.Option("--batch", help="Prompts that run together.", show_default="--max-num-seqs")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for what is written.", show_default="the model folder"),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge",
            metavar="FILE.py:NAME",
            help="A function of (answer, text) that says whether the text is right: True, False, or 0 to 1.",
            show_default="the text equals an answer",
        ),
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            metavar="FILE",
            help="The settings to compare: an object of decoding options a line.",
            show_default="decoders, caches and block lengths in every combination",
        ),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget the trials of an earlier run.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Continue bare text: no chat template around a prompt.")] = False,
    as_json: Json = False,
    *,
    engine_options: dict[str, Any],
    params_options: dict[str, Any],
) -> None:
    """Find the fastest decoding options that keep enough quality, and write them beside the model.

    The same command goes on where an interrupted one has stopped.
    """
    from ..tuning.report import aligned, remarks

    params = SamplingParams(**params_options)
    function = None if judge is None else load_judge(judge)
    chosen = None if settings is None else read_settings(settings)
    with open_engine(model, engine_options) as engine:
        prompts, each, answers = read_questions(input_file, engine, params, is_chat=not raw)
        bar = Bar()
        try:
            report = engine.tune(
                prompts,
                answers,
                judge=function,
                params=each,
                settings=chosen,
                budget_s=budget,
                keep=keep,
                batch=batch,
                out=out,
                restart=restart,
                tell=bar.tell,
            )
        except KeyboardInterrupt:
            bar.close()
            say("interrupted: the same command goes on with the trials made so far")
            raise
        finally:
            bar.close()
    if as_json:
        emit_json(report.to_dict())
        return
    for line in aligned(report, ROWS):
        emit(line)
    emit(f"chosen: {report.chosen.name}")
    for line in remarks(report):
        say(line)
    say(f"written: {', '.join(report.files.values())}")


# ---------------------------------------------------------------- what is read


def read_questions(
    name: str, engine: Engine, params: SamplingParams, *, is_chat: bool
) -> tuple[list[Any], list[SamplingParams], list[Any] | None]:
    """Prompts, the options of each, and the answers: one or None for each. The first bad line is an error."""
    from .batch_input import Generation, Refused, generation_reader, infill_reader, is_json_lines, open_input, read_asks

    generation = generation_reader(params, is_chat=is_chat and engine.has_chat_template, is_ids=False, variables=None)
    infill = infill_reader(params)
    answers: list[Any] = []

    def read(line: int, name: str | int, given: str | dict[str, Any]) -> Ask:
        answer = None
        if isinstance(given, dict):
            check_keys(given)
            answer = given.pop(ANSWER, None)
        is_template = isinstance(given, dict) and ("text" in given or "segments" in given)
        ask = (infill if is_template else generation)(line, name, given)
        answers.append(answer)
        return ask

    prompts, each = [], []
    for ask in read_asks(open_input(name), read, is_json=is_json_lines(name, None)):
        if isinstance(ask, Refused):
            raise ask.error.within(f"--input: line {ask.line}")
        assert isinstance(ask, Generation)
        prompts.append(ask.prompt)
        each.append(ask.params)
    return prompts, each, answers


def check_keys(given: Mapping[str, Any]) -> None:
    known = [ANSWER, *PROMPT_KEYS, *OPEN]
    allowed = {*known, *SamplingParams().to_dict(), *ALIASES}  # the others are refused by their names later
    for key in given:
        if key not in allowed:
            near = difflib.get_close_matches(key, known, n=1)
            raise InvalidRequestError(
                f"expected the keys {', '.join(known)}, got {excerpt_of(key)}",
                param=key[:40],
                hint=f"did you mean {near[0]!r}?" if near else None,
            )


def read_settings(path: Path) -> list[Any]:
    from .batch_input import Generation, Refused, open_input, read_asks

    def read(line: int, name: str | int, given: str | dict[str, Any]) -> Ask:
        return Generation(line, name, given, SamplingParams())

    found = []
    for ask in read_asks(open_input(str(path)), read, is_json=True):
        if isinstance(ask, Refused):
            raise ask.error.within(f"--settings: line {ask.line}")
        assert isinstance(ask, Generation)
        found.append(ask.prompt)
    return found


def load_judge(place: str) -> Callable[[Any, str], float]:
    """The function of a Python file, which is run."""
    name, _, function = place.rpartition(":")
    if not name or not function:
        raise ConfigError(f"--judge: expected FILE.py:NAME, got {excerpt_of(place)}", param="judge")
    try:
        found = runpy.run_path(name).get(function)
    except Exception as error:
        raise ConfigError(
            f"--judge: {excerpt(name)}: cannot be run: {type(error).__name__}: {excerpt(str(error))}", param="judge"
        ) from error
    if not callable(found):
        raise ConfigError(f"--judge: {excerpt(name)}: expected a function {function[:60]}, got none", param="judge")
    return found  # type: ignore[no-any-return]


# ---------------------------------------------------------------- how far it is


class Bar:
    """A line on stderr that is written over; where that is no terminal, a line every ten seconds."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream or sys.stderr, clock
        self._is_terminal = self._stream.isatty()
        self._said = clock()
        self._is_open = False

    def tell(self, progress: Progress) -> None:
        now = self._clock()
        if now - self._said < (EVERY_S_ON_A_TERMINAL if self._is_terminal else EVERY_S):
            return
        self._said = now
        text = bar_text(progress)
        self._write(f"\r\x1b[K{text[:110]}" if self._is_terminal else text + "\n")
        self._is_open = self._is_terminal

    def close(self) -> None:
        if self._is_open:
            self._write("\r\x1b[K")
            self._is_open = False

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def bar_text(progress: Progress) -> str:
    """ "[######------] 31 of 60 s, rung 2 of 4, 38 settings, leading: threshold=0.9 at 812 tokens/s"."""
    full = min(BAR, int(BAR * progress.spent_s / progress.budget_s))
    leading = ""
    if progress.leader is not None:
        leading = f", leading: {progress.leader.setting.name} at {progress.leader.speed:,.0f} tokens/s"
    return (
        f"[{'#' * full}{'-' * (BAR - full)}] {progress.spent_s:.0f} of {progress.budget_s:.0f} s, "
        f"rung {progress.rung} of {progress.num_rungs}, {progress.num_settings} settings{leading}"
    )
