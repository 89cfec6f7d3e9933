"""Filters of chat templates: jinja2's by name and result. Each is written anew, so that its work is paid for."""

from __future__ import annotations

import datetime
import json
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from jinja2 import Undefined
from jinja2.filters import do_title, do_wordcount

from .budget import MAX_SIZE
from .marks import like
from .numbers import NUMBER_FILTERS
from .sequences import SEQUENCE_FILTERS, getter_of
from .tests import apply_test
from .types import Lazy, Namespace, check_defined, refuse
from .values import Values

_MAX_INDENT = 32
_MAX_FORMAT = 256  # characters
_DATE_FORMAT = re.compile(r"(?:[^%]|%[-_0^#]?[A-Za-z%])*")


def apply_filter(values: Values, name: str, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    filter_ = _FILTERS.get(name)
    if filter_ is None:
        raise refuse(f"uses the filter {name[:100]!r}")
    values.budget.work()
    return filter_(values, value, *args, **kwargs)


# ---------------------------------------------------------------- text


def _text_method(name: str) -> Callable[..., Any]:
    def filter_(values: Values, value: Any, *args: Any) -> Any:
        return values.attribute(values.soft(value), name).call(*args)

    return filter_


def _title(values: Values, value: Any) -> str:
    text = values.text(value)
    values.budget.reserve_text(len(text) * 3, text)
    values.budget.reserve_items(len(text), 80)  # it is cut into words, and each first letter stands alone
    return like(do_title(text), text)


def _replace(values: Values, value: Any, old: Any, new: Any, count: Any = None) -> str:
    return values.replace(values.text(value), values.text(old), values.text(new), -1 if count is None else count)


def _join(values: Values, value: Any, d: Any = "", attribute: Any = None) -> str:
    getter = getter_of(values, attribute) if attribute is not None else None
    texts = []
    for item in values.turns(value):
        values.budget.reserve_items(1, 8)
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
    values.budget.reserve_items(len(lines), 96)
    text = values.join([*lines[:1], *(width + line if line or blank else line for line in lines[1:])], "\n")
    return values.concat([width, text]) if first else text


def _center(values: Values, value: Any, width: int = 80) -> str:
    return values.text(values.attribute(values.text(value), "center").call(width))


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
    values.budget.reserve_items(len(text) + 1, 256)
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
    return like(values.join(wrapped, wrapstring), text)


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
        budget.reserve_items(1, 8)
        if length > MAX_SIZE:
            budget.reserve(length, 0)
        pieces.append(piece)
    return like(values.join(pieces, ""), value, indent, separators)


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


# ---------------------------------------------------------------- sequences


def _map(values: Values, value: Any, *args: Any, **kwargs: Any) -> Lazy:
    def each() -> Iterator[Any]:
        if "attribute" in kwargs and not args:
            get = getter_of(values, kwargs["attribute"], kwargs.get("default"))
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
        values.budget.reserve_items(1, 40)
        kept.append(item)
    return Lazy(kept)


def _select(wanted: bool, has_attribute: bool) -> Callable[..., Any]:
    def filter_(values: Values, value: Any, *args: Any, **kwargs: Any) -> Lazy:
        get, rest = (getter_of(values, args[0]), args[1:]) if has_attribute else ((lambda item: item), args)

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
    if len(text) > _MAX_FORMAT or not _DATE_FORMAT.fullmatch(text):
        raise refuse("uses an elaborate date format")
    return like(datetime.datetime.now().strftime(text), text)


_FILTERS: dict[str, Callable[..., Any]] = {
    **NUMBER_FILTERS,
    **SEQUENCE_FILTERS,
    **{name: _text_method(name) for name in ("capitalize", "lower", "upper")},
    "attr": _attr,
    "center": _center,
    "d": _default,
    "default": _default,
    "e": lambda values, value: values.escape(value),
    "escape": lambda values, value: values.escape(value),
    "format": _format,
    "indent": _indent,
    "join": _join,
    "list": lambda values, value: values.items(value),
    "map": _map,
    "reject": _select(False, False),
    "rejectattr": _select(False, True),
    "replace": _replace,
    "safe": lambda values, value: values.mark(values.text(value)),
    "select": _select(True, False),
    "selectattr": _select(True, True),
    "string": lambda values, value: values.soft(value),
    "title": _title,
    "tojson": _tojson,
    "trim": lambda values, value, chars=None: values.attribute(values.soft(value), "strip").call(chars),
    "truncate": _truncate,
    "wordcount": _wordcount,
    "wordwrap": _wordwrap,
}
