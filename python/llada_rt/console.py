"""What commands print: data on stdout, everything else on stderr."""

from __future__ import annotations

import typer


class ReaderGone(Exception):
    """Whoever read stdout has closed it."""


def emit(text: str) -> None:
    """A line of data."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise ReaderGone from None


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
