"""Checks of options: each takes the name of an option and a value, and gives the value as the option keeps it.

What does not fit is an InvalidRequestError that says what was expected and what came.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

from ..errors import InvalidRequestError
from ..excerpt import excerpt_of

# Limits of one request.
MAX_SAMPLES = 1024
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_STOP_IDS = 64
MAX_LOGPROBS = 20  # kMostAlternatives of csrc/ops/ops.h
# Larger than any context; keeps sums of lengths far from the edges of 64-bit integers.
MAX_COUNT = 2**31 - 1


def _invalid(name: str, expected: str, got: object) -> InvalidRequestError:
    return InvalidRequestError(f"{name}: expected {expected}, got {excerpt_of(got, 80)}", param=name)


def integer(low: int, high: int, says: str) -> Callable[[str, object], int]:
    def check(name: str, value: object) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise _invalid(name, says, value)
        number = int(value.__index__())
        if not low <= number <= high:
            raise _invalid(name, says, value)
        return number

    check.bounds = {"minimum": low, "maximum": high}  # type: ignore[attr-defined]  # for whoever describes it
    return check


def real(says: str, holds: Callable[[float], bool]) -> Callable[[str, object], float]:
    def check(name: str, value: object) -> float:
        if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
            raise _invalid(name, says, value)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise _invalid(name, says, value) from None
        if not (math.isfinite(number) and holds(number)):
            raise _invalid(name, says, value)
        return number

    return check


def boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool) and type(value).__name__ not in ("bool_", "bool"):
        raise _invalid(name, "True or False", value)
    return bool(value)


def every(name: str, value: object) -> int:
    """A number of steps; True is every one, False none."""
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return int(bool(value))
    return integer(0, MAX_COUNT, "True, False or a number of steps")(name, value)


def num_logprobs(name: str, value: object) -> int | None:
    """A number of alternatives; None: no log-probabilities. A flag, as it was in 0.1, means 0 or None."""
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return 0 if value else None
    return integer(0, MAX_LOGPROBS, f"None or an integer from 0 to {MAX_LOGPROBS}")(name, value)


def one_of(kind: Any) -> Callable[[str, object], str]:
    choices: tuple[str, ...] = get_args(kind)

    def check(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise _invalid(name, "one of " + ", ".join(choices), value)
        return value

    return check


def stop_strings(name: str, value: object) -> tuple[str, ...]:
    """Stop strings; one alone may come without its list."""
    says = f"at most {MAX_STOPS} texts of 1 to {MAX_STOP_CHARS} characters"
    words = (value,) if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or len(words) > MAX_STOPS:
        raise _invalid(name, says, value)
    for word in words:
        if not isinstance(word, str) or not 1 <= len(word) <= MAX_STOP_CHARS:
            raise _invalid(name, says, word)
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise _invalid(name, "text without half characters", word)
    return tuple(words)


def some_text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _invalid(name, "a text", value)
    return value


def some_texts(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) and text for text in value):
        raise _invalid(name, "a list of texts", value)
    return tuple(value)


def stop_ids(name: str, value: object) -> tuple[int, ...]:
    says = f"at most {MAX_STOP_IDS} token ids"
    if hasattr(value, "tolist"):  # a numpy array
        value = value.tolist()
    if not isinstance(value, (list, tuple)) or len(value) > MAX_STOP_IDS:
        raise _invalid(name, says, value)
    return tuple(integer(0, MAX_COUNT, says)(name, token) for token in value)
