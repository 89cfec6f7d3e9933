"""What commands print: data on stdout, everything else on stderr.

A command never fails over a character: what the encoding of a stream lacks is written as \\uXXXX. JSON is too, where
the escape means the character. Data that cannot be written (a full disk, a closed stdout) is an OutputError. A reader
that went away ends the command without an error. What cannot be written to stderr is left out.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import os
import select
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

import typer

from ..errors import ConfigError, OutputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# Ways to write what an encoding lacks that cannot fail.
_SAFE_ERRORS = ("backslashreplace", "replace", "ignore", "xmlcharrefreplace", "namereplace")


class ReaderGone(Exception):
    """Whoever read stdout has closed it."""


class _Descriptor(io.RawIOBase):
    """File descriptor `fd`, or none. What cannot be written is said once, by an exception that no library takes for
    its own, and swallowed from then on; with `is_silent` at once.
    """

    def __init__(self, fd: int | None, *, is_silent: bool) -> None:
        super().__init__()
        self._fd, self._is_silent = fd, is_silent
        self._is_dead = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd if self._fd is not None else super().fileno()

    def isatty(self) -> bool:
        return self._fd is not None and os.isatty(self._fd)

    def write(self, data: ReadableBuffer, /) -> int:
        num_bytes = memoryview(data).nbytes
        if self._is_dead:
            return num_bytes
        try:
            if self._fd is not None:
                return self._write(self._fd, data)
            fault: Exception = OutputError("stdout: is closed")
        except BrokenPipeError:
            fault = ReaderGone()
        except OSError as error:
            fault = OutputError(f"stdout: cannot be written: {error.strerror}")
        self._is_dead = True
        if not self._is_silent:
            raise fault
        return num_bytes

    def _write(self, fd: int, data: ReadableBuffer) -> int:
        while True:
            try:
                return os.write(fd, data)
            except BlockingIOError:  # someone made the pipe non-blocking
                select.select([], [fd], [])


def prepare_streams() -> None:
    """Make the streams of this process such that printing raises ReaderGone, OutputError or nothing. Streams put in
    their place by others, tests for one, only get a way to write every character.
    """
    for fd in (0, 1, 2):  # a file opened later must not take the number of a closed stream
        try:
            os.fstat(fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number, this one
    if sys.stdin is None:
        sys.stdin = io.StringIO()
    sys.stdout = _safe(sys.stdout, sys.__stdout__, is_silent=False)
    sys.stderr = _safe(sys.stderr, sys.__stderr__, is_silent=True)


def _safe(stream: TextIO | None, original: TextIO | None, *, is_silent: bool) -> TextIO:
    errors = getattr(stream, "errors", None)
    errors = errors if errors in _SAFE_ERRORS else "backslashreplace"
    if stream is not original:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
        assert stream is not None
        return stream
    fd = None
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            fd = stream.fileno()
    raw = _Descriptor(fd, is_silent=is_silent)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors=errors,
        line_buffering=is_silent or raw.isatty(),
    )


def emit(text: str) -> None:
    """A line of data."""
    if not _holds(text):
        _tell_lacking(str(sys.stdout.encoding))
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise ReaderGone from None


def emit_json(value: object, *, default: Callable[[Any], Any] | None = None) -> None:
    """A line of JSON, whatever the encoding; a number that is not finite is null."""
    try:
        line = json.dumps(value, ensure_ascii=False, allow_nan=False, default=default)
    except ValueError:
        value = _finite(value)
        line = json.dumps(value, ensure_ascii=False, default=default)
    emit(line if _holds(line) else json.dumps(value, default=default))


def _holds(text: str) -> bool:
    """Whether the encoding of stdout has every character."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


@functools.cache
def _tell_lacking(encoding: str) -> None:
    say(f"stdout is {encoding}: what it lacks is written as \\uXXXX; PYTHONIOENCODING=utf-8 changes that")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_prompt() -> str:
    """Standard input as one prompt, without the newline that ends it. Raises ConfigError for what is not text."""
    try:
        text = sys.stdin.read()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"standard input: expected text in {error.encoding}, got the byte {error.object[error.start]:#04x} "
            f"at {error.start}",
            param="stdin",
        ) from error
    return text.removesuffix("\n").removesuffix("\r")


def say(text: str) -> None:
    """A remark to whoever looks on."""
    if text:
        typer.secho(text, err=True, dim=True)


def size_text(num_bytes: int) -> str:
    """1234567 -> "1.2 MiB"."""
    value, units = float(num_bytes), ("bytes", "KiB", "MiB", "GiB", "TiB")
    for unit in units:
        if value < 1024 or unit == units[-1]:
            break
        value /= 1024
    return f"{num_bytes} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
