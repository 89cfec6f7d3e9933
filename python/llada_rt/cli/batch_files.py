"""Commands over a file of requests: --input, --output, and what they do."""

from __future__ import annotations

import asyncio
import enum
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import emit, emit_json, say

if TYPE_CHECKING:
    from .batch_input import Ask

LINES_REFUSED = 8  # exit code

_FILES = "Files"
Form = enum.Enum("Form", {"text": "text", "jsonl": "jsonl"})


@dataclass(frozen=True, slots=True)
class ObjectFiles:
    """Where requests, JSON objects, come from and where their results go."""

    input_file: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="A request a line, run together: a prompt, or in a .jsonl file an object with prompt or messages "
            "(infill: text or segments; score: prompt and answer), perhaps id, and options by their own names. - is "
            "stdin.",
            rich_help_panel=_FILES,
            show_default=False,
        ),
    ] = None
    output_file: Annotated[
        str | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="A JSON object a line, in the order of the requests: id, text, token_ids, finish_reason, usage, ..., "
            "or error.",
            rich_help_panel=_FILES,
            show_default="stdout",
        ),
    ] = None

    @property
    def form(self) -> str | None:
        """What the input holds; None: its name says."""
        return "jsonl"


@dataclass(frozen=True, slots=True)
class Files(ObjectFiles):
    """The same for requests that may be bare text."""

    input_form: Annotated[
        Form | None,
        typer.Option("--input-format", help="What --input holds.", rich_help_panel=_FILES, show_default="by the name"),
    ] = None

    @property
    def form(self) -> str | None:
        return None if self.input_form is None else str(self.input_form.value)


def is_batch_of(given: Sequence[str] | None, files: ObjectFiles, name: str, animate: bool | None) -> bool:
    if files.input_file is not None and given:
        raise typer.BadParameter("expected --input or arguments, got both", param_hint=name)
    if files.input_file is None and files.output_file is not None and not given:
        raise typer.BadParameter("expected --input, or arguments, beside --output", param_hint=name)
    is_batch = files.input_file is not None or files.output_file is not None
    if is_batch and animate:
        raise typer.BadParameter("shows requests on the screen, not those of files", param_hint="--animate")
    return is_batch


def run_files(
    model: str | None,
    engine_options: dict[str, Any],
    reader: Any,
    given: Sequence[str],
    files: ObjectFiles,
    as_json: bool,
) -> None:
    """Run the requests of a file, or those given, and tell their results in order."""
    from ..async_engine import AsyncEngine
    from ..outputs import RequestOutput, ScoreOutput
    from .batch import Result, Tally, run_batch
    from .batch_input import Refused, asks_of, is_json_lines, open_input, read_asks
    from .reports import JsonLines, emit_texts, record_of

    input_file, output_file = files.input_file, files.output_file
    tally = Tally()
    began = time.perf_counter()
    with ExitStack() as opened:
        source = open_input(input_file) if input_file is not None else None  # closed by `read_asks`
        target = None
        if output_file is not None and output_file != "-":
            target = opened.enter_context(JsonLines(output_file, input_path=input_file))
        engine = AsyncEngine(model, **engine_options)  # closed by `run`
        if target is not None:
            target.begin()

        def tell(ask: Ask, result: Result) -> None:
            if target is not None:
                target.write(record_of(ask, result))
            elif as_json or output_file is not None:
                emit_json(record_of(ask, result))
            elif isinstance(result, Refused):
                typer.echo(f"error: line {result.line}: {result.error}", err=True)
            elif isinstance(result, ScoreOutput):
                emit(f"{result.log_likelihood:.6f}")
            elif isinstance(result, RequestOutput):
                emit_texts(engine.engine, result)

        async def run() -> None:
            async with engine:
                read = reader(engine.engine)
                asks: Iterator[Ask] = (
                    asks_of(given, read)
                    if source is None or input_file is None
                    else read_asks(source, read, is_json=is_json_lines(input_file, files.form))
                )
                await run_batch(engine, asks, tell, tally)

        try:
            asyncio.run(run())
        except KeyboardInterrupt:
            say(f"interrupted; told: {tally.num_done} done, {tally.num_refused} refused")
            raise
    if sys.stderr.isatty():
        say(f"{tally.num_done} requests in {time.perf_counter() - began:.2f} s")
    if tally.first_refused is not None:
        first = tally.first_refused
        total = tally.num_done + tally.num_refused
        said = f"{tally.num_refused} of {total} requests were refused"
        typer.echo(f"error: {said}; the first, of line {first.line}: {first.error}", err=True)
        raise typer.Exit(LINES_REFUSED)
