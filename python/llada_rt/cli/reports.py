"""How results are written: one JSON object for a line of a batch, tables of log-probabilities and audits."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from ..engine import Engine
from ..errors import ConfigError, OutputError
from ..outputs import CacheAudit, CompletionOutput, RequestOutput, ScoreOutput
from .animate import printable
from .batch import Result
from .batch_input import Ask, Refused
from .console import emit


def record_of(ask: Ask, result: Result) -> dict[str, Any]:
    """The result of a line, under the line's id. Several samples stand under `outputs`, the first also at the top.

    What was not asked for (tokens, logprobs, audit, holes) is left out.
    """
    if isinstance(result, Refused):
        error = result.error
        return {"id": result.id, "error": {"type": error.code, "message": str(error), "param": error.param}}
    if isinstance(result, ScoreOutput):
        return {"id": ask.id, **result.to_dict()}
    record = {"id": ask.id, **_completion(result.outputs[0])}
    if len(result.outputs) > 1:
        record["outputs"] = [{"index": output.index, **_completion(output)} for output in result.outputs]
    return record | {"usage": result.usage.to_dict(), "metrics": result.metrics.to_dict()}


def _completion(output: CompletionOutput) -> dict[str, Any]:
    known = output.to_dict()
    del known["index"]
    return {name: value for name, value in known.items() if value is not None or name == "stop_reason"}


def _is_same(path: str, input_path: str) -> bool:
    """Whether a file is the one that is read; `-`: standard input, if that is a file."""
    if input_path != "-":
        return os.path.samefile(path, input_path)
    try:
        return os.path.samestat(os.stat(path), os.fstat(sys.stdin.fileno()))
    except (OSError, ValueError, AttributeError):  # there is none, or none with a number
        return False


class JsonLines:
    """A file to which objects are written as they come, a line each. Raises OutputError where that cannot be.

    What the file held is there until `begin`: a model that is not found costs no earlier results.
    """

    def __init__(self, path: str, *, input_path: str | None = None) -> None:
        self._path = path
        try:
            if input_path is not None and os.path.exists(path) and _is_same(path, input_path):
                raise ConfigError(f"--output: {path[:200]}: is the input", param="output")
            self._file = open(path, "ab")  # noqa: SIM115 (closed by __exit__)
        except (OSError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise self._error(error) from error

    def begin(self) -> None:
        with contextlib.suppress(OSError):  # a pipe, a device
            self._file.truncate(0)

    def write(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            self._file.write(line.encode("utf-8", "backslashreplace"))
            self._file.flush()
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> OutputError:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)[:200]
        return OutputError(f"--output: {self._path[:200]}: cannot be written: {reason}", param="output")

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        except OSError as fault:
            if error is None:
                raise self._error(fault) from fault


# ---------------------------------------------------------------- texts and tables


def emit_texts(engine: Engine, output: RequestOutput) -> None:
    """The texts of an output on stdout, each with the tables that belong to it."""
    for completion in output.outputs:
        text = completion.text if engine.tokenizer else ", ".join(map(str, completion.token_ids))
        emit(printable(text) if sys.stdout.isatty() else text)
        for line in tables(output, completion, engine.tokenizer.token_text if engine.tokenizer else str):
            emit(line)


def tables(output: RequestOutput, completion: CompletionOutput, token_text: Callable[[int], str]) -> Iterator[str]:
    """Lines on what was asked for beside the text: log-probabilities, the audit."""
    if completion.logprobs is not None:
        yield from _logprobs(len(output.prompt_token_ids), completion, token_text)
    if completion.audit is not None:
        yield from _audit(completion.audit)


def _logprobs(start: int, completion: CompletionOutput, token_text: Callable[[int], str]) -> Iterator[str]:
    """A line for each token, but for a run of one and the same at the end; beside a token its alternatives."""
    ids, told = completion.token_ids, completion.token_logprobs or []
    count = len(ids)
    while count > 1 and ids[count - 2] == ids[-1]:
        count -= 1
    beside = "  others" if any(each.top_logprobs for each in told) else ""
    yield f"{'position':>8} {'token':>8} {'logprob':>9} {'p':>7}  text{beside}"
    for index, each in enumerate(told[:count]):
        logprob = each.logprob
        figures = f"{'given':>9} {'':7}" if logprob is None else f"{logprob:9.3f} {math.exp(logprob):7.1%}"
        others = [
            f"{_quoted(token_text(other.id))} {math.exp(other.logprob):.1%}"
            for other in each.top_logprobs
            if other.id != each.id
        ]
        shown = "  ".join([_quoted(token_text(each.id)), ", ".join(others)]).rstrip()
        yield f"{start + index:8} {each.id:8} {figures}  {shown}"
    if count < len(ids):
        yield f"{'':8} {'':8} {len(ids) - count} more of the last one"
    known = [each.logprob for each in told if each.logprob is not None]
    if known:
        yield f"{'sum':>8} {'':8} {math.fsum(known):9.3f}  of {len(known)} tokens"


def _quoted(text: str) -> str:
    return printable(json.dumps(text, ensure_ascii=False))


def _audit(audit: CacheAudit) -> Iterator[str]:
    if audit.num_steps == 0:
        yield "audit: no step read the cache, so there was nothing to compare"
        return
    yield f"audit: {audit.num_steps} steps that read the cache, each beside the exact one"
    rows = {
        "KL": f"{audit.mean_kl:.3g} nats on average, {audit.max_kl:.3g} at most, over {audit.num_positions} candidates",
        "best token": f"another one for {audit.num_changed_candidates} of {audit.num_positions} candidates",
        "written": f"{audit.num_commits} tokens, {audit.num_changed_commits} of which the exact step would not have "
        f"written; {audit.num_missed_commits} that it would have are missing",
        "run exactly": f"{audit.num_forced_refreshes} steps beyond the error budget",
    }
    for name, value in rows.items():
        yield f"  {name:12} {value}"
