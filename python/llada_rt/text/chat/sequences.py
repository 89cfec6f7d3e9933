"""Filters of chat templates on lists and mappings, each walk and each new list paid for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Undefined
from jinja2.exceptions import TemplateRuntimeError

from .types import Lazy, check_defined, refuse
from .values import Values

_MAX_ATTRIBUTE = 200  # characters


def _length(values: Values, value: Any) -> int:
    return len(check_sized(value))


def check_sized(value: Any) -> Any:
    if not isinstance(value, (str, list, tuple, dict, range, Undefined)):
        raise TypeError(f"a {type(value).__name__} has no length")
    return value


def _first(values: Values, value: Any) -> Any:
    return next(values.turns(value), values.undefined("first"))


def _last(values: Values, value: Any) -> Any:
    if isinstance(value, dict):
        return next(reversed(value), values.undefined("last"))
    if len(check_sized(value)) == 0:
        return values.undefined("last")
    return value[-1]


def _reverse(values: Values, value: Any) -> Any:
    if isinstance(value, str):
        return values.slice(value, None, None, -1)
    return Lazy(values.items(value)[::-1])


def _items(values: Values, value: Any) -> Lazy:
    return Lazy(_pairs(values, value))


def _pairs(values: Values, value: Any) -> list[Any]:
    if isinstance(value, Undefined):
        return []
    if not isinstance(value, dict):
        raise TypeError(f"can only get item pairs from a mapping, got {type(value).__name__}")
    return list(values.attribute(value, "items").call())


def _sort_key(values: Values, case_sensitive: Any, attribute: Any) -> Callable[[Any], Any]:
    names = [] if attribute is None else _attribute_text(attribute).split(",")
    getters = [getter_of(values, name) for name in names] or [lambda item: item]

    def key(item: Any) -> Any:
        found = [getter(item) for getter in getters]
        if not case_sensitive:
            found = [values.attribute(part, "lower").call() if isinstance(part, str) else part for part in found]
        return found[0] if attribute is None or len(found) == 1 else found

    return key


def _sorted(values: Values, items: list[Any], key: Callable[[Any], Any], reverse: Any) -> list[Any]:
    rounds = max(len(items).bit_length(), 1)
    keys = []
    for item in items:
        keys.append(key(item))
        for _ in range(rounds):  # each is compared about so often
            values.budget.weigh(keys[-1])
    values.budget.reserve_items(2 * len(items), 16)
    order = sorted(range(len(items)), key=keys.__getitem__, reverse=bool(reverse))
    return [items[index] for index in order]


def _sort(values: Values, value: Any, reverse: Any = False, case_sensitive: Any = False, attribute: Any = None) -> Any:
    return _sorted(values, values.items(value), _sort_key(values, case_sensitive, attribute), reverse)


def _dictsort(
    values: Values, value: Any, case_sensitive: Any = False, by: str = "key", reverse: Any = False
) -> list[Any]:
    if by not in ("key", "value"):
        raise TemplateRuntimeError('You can only sort by either "key" or "value"')
    position = 0 if by == "key" else 1
    pick = _sort_key(values, case_sensitive, None)
    return _sorted(values, _pairs(values, check_defined(value)), lambda pair: pick(pair[position]), reverse)


def _unique(values: Values, value: Any, case_sensitive: Any = False, attribute: Any = None) -> Lazy:
    key = _sort_key(values, case_sensitive, attribute)
    seen = set()
    unique = []
    for item in values.turns(value):
        found = values.budget.weigh(key(item))
        if found is not None and not isinstance(found, (str, int, float)):
            raise refuse(f"looks for unique values of type {type(found).__name__.lower()}")
        values.budget.reserve_items(1, 120)
        if found not in seen:
            seen.add(found)
            unique.append(item)
    return Lazy(unique)


def _extreme(pick: Callable[..., Any]) -> Callable[..., Any]:
    def filter_(values: Values, value: Any, case_sensitive: Any = False, attribute: Any = None) -> Any:
        key = _sort_key(values, case_sensitive, attribute)
        return pick(
            values.items(value), key=lambda item: values.budget.weigh(key(item)), default=values.undefined("first")
        )

    return filter_


def _batch(values: Values, value: Any, linecount: int, fill_with: Any = None) -> Lazy:
    items = values.items(value)
    if not isinstance(linecount, int) or linecount < 1:
        raise ValueError("batch takes a positive length")
    values.budget.reserve_items(len(items) // linecount + 1, 80)
    rows = [items[at : at + linecount] for at in range(0, len(items), linecount)]
    if fill_with is not None and rows and len(rows[-1]) < linecount:
        values.budget.reserve_list(linecount)
        rows[-1] += [fill_with] * (linecount - len(rows[-1]))
    return Lazy(rows)


def _slice(values: Values, value: Any, slices: int, fill_with: Any = None) -> Lazy:
    if not isinstance(slices, int) or slices < 1:
        raise ValueError("slice takes a positive number of lists")
    items = values.items(value)
    values.budget.reserve_items(slices, 80)
    each, more = divmod(len(items), slices)
    rows, at = [], 0
    for index in range(slices):
        size = each + (index < more)
        rows.append(items[at : at + size])
        at += size
        if fill_with is not None and index >= more:
            rows[-1].append(fill_with)
    return Lazy(rows)


def _attribute_text(attribute: Any) -> str:
    """ "a.b.0,c" or an index as text."""
    text = str(attribute) if isinstance(attribute, (str, int)) else ""
    if not 0 < len(text) <= _MAX_ATTRIBUTE:
        raise refuse("reaches for an attribute that is no short name")
    return text


def getter_of(values: Values, attribute: Any, default: Any = None) -> Callable[[Any], Any]:
    parts = [int(part) if part.isdigit() else part for part in _attribute_text(attribute).split(".")]

    def get(item: Any) -> Any:
        for part in parts:
            item = values.item(item, part)
            if default is not None and isinstance(item, Undefined):
                item = default
        return item

    return get


def _sum(values: Values, value: Any, attribute: Any = None, start: Any = 0) -> Any:
    getter = getter_of(values, attribute) if attribute is not None else None
    for item in values.turns(value):
        start = values.binary("+", start, item if getter is None else getter(item))
    return start


SEQUENCE_FILTERS: dict[str, Callable[..., Any]] = {
    "batch": _batch,
    "count": _length,
    "dictsort": _dictsort,
    "first": _first,
    "items": _items,
    "last": _last,
    "length": _length,
    "max": _extreme(max),
    "min": _extreme(min),
    "reverse": _reverse,
    "slice": _slice,
    "sort": _sort,
    "sum": _sum,
    "unique": _unique,
}
