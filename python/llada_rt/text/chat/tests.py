"""Tests of chat templates, `value is test`: jinja2's by name and result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Undefined

from .types import Function, Lazy, refuse
from .values import Values


def apply_test(values: Values, name: str, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    test = _TESTS.get(name)
    if test is None:
        raise refuse(f"uses the test {name[:100]!r}")
    values.budget.work()
    return bool(test(values, value, *args, **kwargs))


def _comparison(sign: str) -> Callable[..., bool]:
    return lambda values, value, other: values.compare(sign, value, other)


def _is(*kinds: type) -> Callable[..., bool]:
    return lambda values, value: isinstance(value, kinds)


_TESTS: dict[str, Callable[..., Any]] = {
    "boolean": _is(bool),
    "callable": _is(Function),
    "defined": lambda values, value: not isinstance(value, Undefined),
    "divisibleby": lambda values, value, by: values.binary("%", value, by) == 0,
    "even": lambda values, value: values.binary("%", value, 2) == 0,
    "false": lambda values, value: value is False,
    "float": _is(float),
    "in": lambda values, value, container: values.compare("in", value, container),
    "integer": lambda values, value: isinstance(value, int) and not isinstance(value, bool),
    "iterable": _is(str, list, tuple, dict, range, Lazy, Undefined),
    "lower": lambda values, value: values.attribute(values.text(value), "islower").call(),
    "mapping": _is(dict),
    "none": lambda values, value: value is None,
    "number": _is(int, float),
    "odd": lambda values, value: values.binary("%", value, 2) == 1,
    "sameas": lambda values, value, other: value is other,
    "sequence": _is(str, list, tuple, dict, range, Undefined),
    "string": _is(str),
    "true": lambda values, value: value is True,
    "undefined": _is(Undefined),
    "upper": lambda values, value: values.attribute(values.text(value), "isupper").call(),
    **{
        alias: _comparison(sign)
        for sign, aliases in {
            "eq": "eq equalto ==",
            "ne": "ne !=",
            "lt": "lt lessthan <",
            "lteq": "le <=",
            "gt": "gt greaterthan >",
            "gteq": "ge >=",
        }.items()
        for alias in aliases.split()
    },
}
