"""Filters of chat templates that give numbers, written so that no number becomes long."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from jinja2.exceptions import TemplateRuntimeError

from .types import check_defined, refuse
from .values import Values

MAX_NUMBER_TEXT = 256


def _int(values: Values, value: Any, default: Any = 0, base: int = 10) -> Any:
    try:
        if isinstance(value, str):
            return values.budget.made(int(_number_text(value), base))
        return values.budget.made(int(value))
    except (TypeError, ValueError):
        try:
            return values.budget.made(int(float(_number_text(value) if isinstance(value, str) else value)))
        except (TypeError, ValueError, OverflowError):
            return default
    except OverflowError:
        return default


def _float(values: Values, value: Any, default: Any = 0.0) -> Any:
    try:
        return float(_number_text(value) if isinstance(value, str) else value)
    except (TypeError, ValueError, OverflowError):
        return default


def _number_text(text: str) -> str:
    if len(text) > MAX_NUMBER_TEXT:
        raise refuse("reads a long text as a number")
    return text


def _round(values: Values, value: Any, precision: int = 0, method: str = "common") -> Any:
    if method not in ("common", "ceil", "floor"):
        raise TemplateRuntimeError("method must be common, ceil or floor")
    if not isinstance(check_defined(value), (int, float)) or not isinstance(precision, int):
        raise TypeError(f"round takes a number and a whole precision, got {type(value).__name__}")
    if abs(precision) > 300:
        raise refuse("rounds to an extreme precision")
    if method == "common":
        return values.budget.made(round(value, precision))
    scale = 10**precision
    return (math.ceil if method == "ceil" else math.floor)(value * scale) / scale


def _abs(values: Values, value: Any) -> Any:
    return value if isinstance(check_defined(value), int) and value >= 0 else values.budget.made(abs(value))


NUMBER_FILTERS: dict[str, Callable[..., Any]] = {
    "abs": _abs,
    "float": _float,
    "int": _int,
    "round": _round,
}
