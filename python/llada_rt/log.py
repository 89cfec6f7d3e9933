"""What the package writes to the standard library's logging, under the name llada_rt. By default nothing is shown.

INFO: a model was loaded, an engine was closed. DEBUG: a request was queued, a request has finished. WARNING: a model
folder works, but perhaps not as was meant.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

LogLevel = Literal["debug", "info", "warning", "error"]

_FACTS = ("request_id", "endpoint", "status")  # that a record may have beside its message

logger = logging.getLogger("llada_rt")
logger.addHandler(logging.NullHandler())


def tell_loaded(info: Callable[[], dict[str, Any]], seconds: float) -> None:
    """An engine is there; `info`: its info, asked only if somebody listens."""
    if not logger.isEnabledFor(logging.INFO):
        return
    facts = info()
    logger.info(
        "loaded %s in %.2f s: %d parameters as %s on %s (%s, %d threads); %.1f MiB of weights, %.1f MiB for K/V",
        facts["model_dir"],
        seconds,
        facts["num_parameters"],
        facts["compute_type"],
        facts["device"],
        facts["table"],
        facts["threads"],
        facts["weight_bytes"] / 2**20,
        facts["memory"]["kv_bytes"] / 2**20,
    )


def warn_of_folder(folder: Path, *, num_ends: int, tokenizer_size: int, vocab_size: int) -> None:
    """Warns of a model folder that works, but perhaps not as was meant."""
    if not num_ends:
        logger.warning("%s names no token that ends a text: every answer fills its length", folder)
    if tokenizer_size > vocab_size:
        logger.warning(
            "%s: the tokenizer has %d entries and the model %d: a text with one of the others is refused",
            folder,
            tokenizer_size,
            vocab_size,
        )


@contextlib.contextmanager
def on_stderr(level: LogLevel) -> Iterator[None]:
    """Records from this level on are told on stderr, as the command line tells errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain())
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def as_json() -> None:
    """What is told on stderr is one JSON object a line from now on."""
    for handler in logger.handlers:
        if isinstance(handler.formatter, _Plain):
            handler.setFormatter(_Json())


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = {"time": record.created, "level": record.levelname.lower(), "logger": record.name}
        facts |= {name: vars(record)[name] for name in _FACTS if name in vars(record)}
        return json.dumps(facts | {"message": super().format(record)})


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {super().format(record)}"
