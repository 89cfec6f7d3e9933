"""What commands print: data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import typer

from .errors import ConfigError


class ReaderGone(Exception):
    """Whoever read stdout has closed it."""


def prepare_streams() -> None:
    """Characters that the encoding of stdout or stderr lacks are written as escapes (backslash, u, hexadecimal)."""
    if sys.stdout is None:  # closed before the program began
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def emit(text: str) -> None:
    """A line of data. Raises ReaderGone, or ConfigError for a stdout that takes none."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise ReaderGone from None
    except (OSError, ValueError) as error:  # a full disk; a stdout that is closed
        raise ConfigError(f"standard output cannot be written: {error}", param="stdout") from error


def emit_json(value: Any) -> None:
    """An object as a line; in an encoding that lacks characters they are JSON's escapes."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("_", "-")
    emit(json.dumps(value, ensure_ascii=not encoding.startswith("utf-"), default=str))


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
