"""Filters and tests of chat templates: jinja2's by name and result, each written anew so that its work is paid for."""

from __future__ import annotations

import datetime
import json
import math
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from jinja2 import Undefined
from jinja2.exceptions import TemplateRuntimeError
from jinja2.filters import do_title, do_wordcount

from .chat_budget import MAX_SIZE
from .chat_values import MAX_SMALL_TEXT, Function, Lazy, Namespace, Values, check_defined, refuse

_MAX_INDENT = 32
_DATE_FORMAT = re.compile(r"(?:[^%]|%[-_0^#]?[A-Za-z%])*")


def apply_filter(values: Values, name: str, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    filter_ = _FILTERS.get(name)
    if filter_ is None:
        raise refuse(f"uses the filter {name[:100]!r}")
    values.budget.work()
    return filter_(values, value, *args, **kwargs)


def apply_test(values: Values, name: str, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    test = _TESTS.get(name)
    if test is None:
        raise refuse(f"uses the test {name[:100]!r}")
    values.budget.work()
    return bool(test(values, value, *args, **kwargs))


# ---------------------------------------------------------------- text


def _text_method(name: str) -> Callable[..., Any]:
    def filter_(values: Values, value: Any, *args: Any) -> Any:
        return values.attribute(values.soft(value), name).call(*args)

    return filter_


def _title(values: Values, value: Any) -> str:
    text = values.text(value)
    values.budget.reserve_text(len(text) * 3, text)
    values.budget.has(len(text), 80)  # it is cut into words, and each first letter stands alone
    return do_title(text)


def _replace(values: Values, value: Any, old: Any, new: Any, count: Any = None) -> str:
    return values.replace(values.text(value), values.text(old), values.text(new), -1 if count is None else count)


def _join(values: Values, value: Any, d: Any = "", attribute: Any = None) -> str:
    getter = _getter(values, attribute) if attribute is not None else None
    texts = []
    for item in values.turns(value):
        values.budget.has(1, 8)
        text = values.text(item if getter is None else getter(item))
        texts.append(text)
    return values.join(texts, values.text(d))


def _indent(values: Values, value: Any, width: Any = 4, first: Any = False, blank: Any = False) -> str:
    if not isinstance(check_defined(value), str):
        raise TypeError(f"indent takes text, got {type(value).__name__}")
    if not isinstance(width, str):
        width = values.binary("*", " ", width)
    lines = values.attribute(values.concat([value, "\n"]), "splitlines").call()
    values.budget.reserve_text(len(value) + len(width) * len(lines), value, width)
    values.budget.has(len(lines), 96)
    text = values.join([*lines[:1], *(width + line if line or blank else line for line in lines[1:])], "\n")
    return values.concat([width, text]) if first else text


def _center(values: Values, value: Any, width: int = 80) -> str:
    return str(values.attribute(values.text(value), "center").call(width))


def _format(values: Values, value: Any, *args: Any, **kwargs: Any) -> str:
    if args and kwargs:
        raise TypeError("format takes values by place or by name")
    return values.printf(values.text(value), kwargs or args)


def _truncate(
    values: Values, value: Any, length: int = 255, killwords: Any = False, end: str = "...", leeway: int = 5
) -> str:
    text = values.text(value)
    if length < len(end) or leeway < 0:
        raise ValueError("truncate takes a length that its end fits into")
    if len(text) <= length + leeway:
        return text
    cut = values.slice(text, None, length - len(end), None)
    return values.concat([cut if killwords else cut.rsplit(" ", 1)[0], end])


def _wordwrap(
    values: Values,
    value: Any,
    width: int = 79,
    break_long_words: bool = True,
    wrapstring: str = "\n",
    break_on_hyphens: bool = True,
) -> str:
    text = values.text(value)
    if len(text) > 10_000:
        raise refuse("wraps a long text")
    values.budget.has(len(text) + 1, 256)
    values.budget.work(8 * len(text))
    wrapped = [
        values.join(
            textwrap.wrap(
                line,
                width=width,
                expand_tabs=False,
                replace_whitespace=False,
                break_long_words=break_long_words,
                break_on_hyphens=break_on_hyphens,
            ),
            wrapstring,
        )
        for line in text.splitlines()
    ]
    return values.join(wrapped, wrapstring)


def _wordcount(values: Values, value: Any) -> int:
    text = values.text(value)
    values.budget.work(len(text))
    return do_wordcount(text)


def _tojson(
    values: Values,
    value: Any,
    ensure_ascii: Any = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: Any = False,
) -> str:
    """As transformers has it: json.dumps, nothing escaped for HTML."""
    budget = values.budget
    budget.weigh(value)
    if indent is not None and (len(indent) if isinstance(indent, str) else indent) > _MAX_INDENT:
        raise refuse("writes JSON with a wide indent")
    if separators is not None and any(len(part) > _MAX_INDENT for part in separators):
        raise refuse("writes JSON with long separators")
    encoder = json.JSONEncoder(
        ensure_ascii=bool(ensure_ascii), indent=indent, separators=separators, sort_keys=bool(sort_keys)
    )
    pieces: list[str] = []
    length = 0
    _check_json(values, value, bool(ensure_ascii))
    for piece in encoder.iterencode(value):
        length += len(piece)
        budget.reserve_text(len(piece), piece)
        budget.has(1, 8)
        if length > MAX_SIZE:
            budget.reserve(length, 0)
        pieces.append(piece)
    return values.join(pieces, "")


def _check_json(values: Values, value: Any, ensure_ascii: bool) -> None:
    """Each text may become twelve times as long (escapes), and that before anybody sees it."""
    if isinstance(value, str):
        values.budget.reserve_text(len(value) * (12 if ensure_ascii and not value.isascii() else 2), value)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_json(values, key, ensure_ascii)
            _check_json(values, item, ensure_ascii)
        values.budget.work(1 + len(value) * len(value).bit_length())
    elif isinstance(value, (list, tuple)):
        values.budget.work(1 + len(value))
        for item in value:
            _check_json(values, item, ensure_ascii)


# ---------------------------------------------------------------- numbers


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
    if len(text) > MAX_SMALL_TEXT:
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


def _sum(values: Values, value: Any, attribute: Any = None, start: Any = 0) -> Any:
    getter = _getter(values, attribute) if attribute is not None else None
    for item in values.turns(value):
        start = values.binary("+", start, item if getter is None else getter(item))
    return start


# ---------------------------------------------------------------- sequences


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
    getters = [_getter(values, part) for part in str(attribute).split(",")] if attribute is not None else [lambda x: x]

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
    values.budget.has(2 * len(items), 16)
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
        values.budget.has(1, 120)
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
    if linecount < 1:
        raise ValueError("batch takes a positive length")
    values.budget.has(len(items) // linecount + 1, 80)
    rows = [items[at : at + linecount] for at in range(0, len(items), linecount)]
    if fill_with is not None and rows and len(rows[-1]) < linecount:
        values.budget.reserve_list(linecount)
        rows[-1] += [fill_with] * (linecount - len(rows[-1]))
    return Lazy(rows)


def _slice(values: Values, value: Any, slices: int, fill_with: Any = None) -> Lazy:
    items = values.items(value)
    values.budget.has(slices, 80)
    each, more = divmod(len(items), slices)
    rows, at = [], 0
    for index in range(slices):
        size = each + (index < more)
        rows.append(items[at : at + size])
        at += size
        if fill_with is not None and index >= more:
            rows[-1].append(fill_with)
    return Lazy(rows)


def _getter(values: Values, attribute: Any, default: Any = None) -> Callable[[Any], Any]:
    parts = [int(part) if part.isdigit() else part for part in str(attribute).split(".")]
    if len(parts) > 32:
        raise refuse("reaches for an attribute of many parts")

    def get(item: Any) -> Any:
        for part in parts:
            item = values.item(item, part)
            if default is not None and isinstance(item, Undefined):
                item = default
        return item

    return get


def _map(values: Values, value: Any, *args: Any, **kwargs: Any) -> Lazy:
    def each() -> Iterator[Any]:
        if "attribute" in kwargs and not args:
            get = _getter(values, kwargs["attribute"], kwargs.get("default"))
            yield from map(get, _turns(values, value))
        else:
            name, *more = args
            for item in _turns(values, value):
                yield apply_filter(values, name, item, tuple(more), kwargs)

    return _kept(values, each())


def _turns(values: Values, value: Any) -> Iterator[Any]:
    return values.turns(value) if value else iter(())  # None as well, in jinja2


def _kept(values: Values, items: Iterator[Any]) -> Lazy:
    kept = []
    for item in items:
        values.budget.has(1, 40)
        kept.append(item)
    return Lazy(kept)


def _select(wanted: bool, has_attribute: bool) -> Callable[..., Any]:
    def filter_(values: Values, value: Any, *args: Any, **kwargs: Any) -> Lazy:
        get, rest = (_getter(values, args[0]), args[1:]) if has_attribute else ((lambda item: item), args)

        def passes(item: Any) -> bool:
            found = get(item)
            if not rest:
                return bool(found)
            return apply_test(values, rest[0], found, rest[1:], kwargs)

        return _kept(values, (item for item in _turns(values, value) if passes(item) == wanted))

    return filter_


def _attr(values: Values, value: Any, name: Any) -> Any:
    """Never a key."""
    if isinstance(value, (Namespace, Undefined)):
        return values.attribute(value, values.text(name))
    found = values.method(value, values.text(name))
    return values.undefined(name, value) if found is None else found


def _default(values: Values, value: Any, default_value: Any = "", boolean: Any = False) -> Any:
    return default_value if isinstance(value, Undefined) or (boolean and not value) else value


def strftime_now(values: Values, format: Any) -> str:
    """The time here, as text."""
    text = values.text(format)
    if len(text) > MAX_SMALL_TEXT or not _DATE_FORMAT.fullmatch(text):
        raise refuse("uses an elaborate date format")
    return datetime.datetime.now().strftime(text)


_FILTERS: dict[str, Callable[..., Any]] = {
    **{name: _text_method(name) for name in ("capitalize", "lower", "upper")},
    "abs": _abs,
    "attr": _attr,
    "batch": _batch,
    "center": _center,
    "count": _length,
    "d": _default,
    "default": _default,
    "dictsort": _dictsort,
    "e": lambda values, value: values.escape(value),
    "escape": lambda values, value: values.escape(value),
    "first": _first,
    "float": _float,
    "format": _format,
    "indent": _indent,
    "int": _int,
    "items": _items,
    "join": _join,
    "last": _last,
    "length": _length,
    "list": lambda values, value: values.items(value),
    "map": _map,
    "max": _extreme(max),
    "min": _extreme(min),
    "reject": _select(False, False),
    "rejectattr": _select(False, True),
    "replace": _replace,
    "reverse": _reverse,
    "round": _round,
    "safe": lambda values, value: values.mark(values.text(value)),
    "select": _select(True, False),
    "selectattr": _select(True, True),
    "slice": _slice,
    "sort": _sort,
    "string": lambda values, value: values.soft(value),
    "sum": _sum,
    "title": _title,
    "tojson": _tojson,
    "trim": lambda values, value, chars=None: values.attribute(values.soft(value), "strip").call(chars),
    "truncate": _truncate,
    "unique": _unique,
    "wordcount": _wordcount,
    "wordwrap": _wordwrap,
}


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
    "filter": lambda values, value: value in _FILTERS,
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
    "test": lambda values, value: value in _TESTS,
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
