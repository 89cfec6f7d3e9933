"""Values of a chat template: what their attributes, methods and operators are, each by list and each paid for.

Values are None, bool, int, float, str, list, tuple, dict, range, a namespace, a function of ours, or undefined; nothing
else ever arises, so no attribute of a Python object can be reached.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

from jinja2 import Undefined
from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext

from .chat_budget import MAX_INTEGER_BITS, MAX_SIZE, Budget
from .errors import ChatTemplateError

MAX_RANGE = 100_000  # jinja2's sandbox, too
MAX_SMALL_TEXT = 256  # characters of a format, of characters to strip, of a number
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"

_ESCAPES = (("&", "&amp;"), (">", "&gt;"), ("<", "&lt;"), ("'", "&#39;"), ('"', "&#34;"))
_SAME_LENGTH = frozenset(  # at most three times as long
    ["capitalize", "casefold", "lower", "swapcase", "title", "upper"]
)
_QUESTIONS = frozenset(
    (
        *("count", "endswith", "find", "index", "rfind", "rindex", "startswith"),
        *("isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric"),
        *("isprintable", "isspace", "istitle", "isupper"),
    )
)
_PARTS = frozenset(["lstrip", "partition", "removeprefix", "removesuffix", "rpartition", "rstrip", "strip"])
_SPLITS = frozenset(["rsplit", "split", "splitlines"])
_PADDED = frozenset(["center", "ljust", "rjust", "zfill"])
_METHODS: dict[type, frozenset[str]] = {
    str: _SAME_LENGTH | _QUESTIONS | _PARTS | _SPLITS | _PADDED | {"format", "join", "replace"},
    dict: frozenset(["copy", "get", "items", "keys", "values"]),
    list: frozenset(["copy", "count", "index"]),
    tuple: frozenset(["count", "index"]),
}
_LOOP_VALUES = frozenset(
    (
        *("depth", "depth0", "first", "index", "index0", "last", "length"),
        *("nextitem", "previtem", "revindex", "revindex0"),
    )
)
_LOOP_METHODS = frozenset(["changed", "cycle"])
_PRINTF = re.compile(r"%(?:\((\w+)\))?[#0\- +]*(\d*)(?:\.(\d*))?([sdiufFgGexXr%])")
_FORMAT_FIELD = re.compile(r"\{(\d*|\w+)(?::([<>=^]?[+\- ]?0?(\d*),?(?:\.(\d+))?[sdfgex%]?))?\}")


class Namespace:
    """namespace(...): the one value that a template may change."""

    __slots__ = ("values",)

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values


class Function:
    """Something that a template may call."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self.name = name
        self.call = call


class Lazy:
    """What jinja2's filters give for one walk only: always true, without a length."""

    __slots__ = ("_items",)

    def __init__(self, items: list[Any]) -> None:
        self._items = iter(items)

    def __iter__(self) -> Iterator[Any]:
        return self._items


class Safe(str):
    """Text that the filter `safe` gave: what is added to it by `+` is escaped, what is joined by `~` is not."""


class Loop(LoopContext):
    """`loop` within a loop."""


def refuse(what: str) -> ChatTemplateError:
    return ChatTemplateError(f"the chat template {what}, which is not supported")


def check_defined(value: Any) -> Any:
    """What jinja2 raises for arithmetic with something undefined."""
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()
    return value


class Values:
    """Operations on values within one budget."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    # ---------------------------------------------------------------- text

    def text(self, value: Any) -> str:
        """As it is printed."""
        if type(value) is str:
            self.budget.work(1 + len(value) // 64)
            return value
        if isinstance(value, str):
            return str(value)
        if isinstance(value, Undefined):
            if value._undefined_exception is SecurityError:
                raise ChatTemplateError("the chat template reaches for something that is out of bounds")
            return ""
        pieces: list[str] = []
        self._show(value, pieces)
        return self.concat(pieces)

    def _show(self, value: Any, pieces: list[str]) -> None:
        self.budget.work()
        opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")") if isinstance(value, tuple) else "{}"
        if isinstance(value, (list, tuple)):
            pieces.append(opening)
            for index, item in enumerate(value):
                self._piece(", " if index else "", pieces)
                self._show(item, pieces)
            pieces.append(",)" if isinstance(value, tuple) and len(value) == 1 else closing)
        elif isinstance(value, dict):
            pieces.append(opening)
            for index, (key, item) in enumerate(value.items()):
                self._piece(", " if index else "", pieces)
                self._show(key, pieces)
                pieces.append(": ")
                self._show(item, pieces)
            pieces.append(closing)
        elif isinstance(value, str):
            self.budget.reserve_text(len(value) + 2 if value.isprintable() else 10 * len(value), value)
            pieces.append(repr(str(value)))
        elif value is None or isinstance(value, (int, float, range)):
            self._piece(str(value), pieces)
        elif isinstance(value, Undefined):
            self._piece("Undefined", pieces)
        else:
            raise refuse(f"prints a {type(value).__name__.lower()}")

    def _piece(self, text: str, pieces: list[str]) -> None:
        self.budget.has(1, 80)
        pieces.append(text)

    def concat(self, pieces: list[str]) -> str:
        if len(pieces) == 1 and type(pieces[0]) is str:
            return pieces[0]
        self.budget.reserve_text(sum(map(len, pieces)), *pieces)
        return "".join(pieces)

    def soft(self, value: Any) -> str:
        """The same, but what is marked as safe stays so."""
        return value if isinstance(value, Safe) else self.text(value)

    def escape(self, value: Any) -> Safe:
        if isinstance(value, Safe):
            return value
        text = self.text(value)
        for plain, escaped in _ESCAPES:
            text = self.replace(text, plain, escaped)
        return self.mark(text)

    def mark(self, text: str) -> Safe:
        self.budget.reserve_text(len(text), text)
        return Safe(text)

    # ---------------------------------------------------------------- parts of values

    def undefined(self, name: object, of: Any = None) -> Undefined:
        self.budget.has(1, 256)
        return Undefined(f"{str(name)[:100]!r} is undefined" + ("" if of is None else f" in a {type(of).__name__}"))

    def turns(self, value: Any) -> Iterator[Any]:
        """The items of anything that may be looped over."""
        if not isinstance(value, (str, list, tuple, dict, range, Lazy, Undefined)):
            raise TypeError(f"{type(value).__name__} is not iterable")
        if isinstance(value, Undefined):
            self.text(value)  # out of bounds?
            return
        for item in value:
            self.budget.work()
            yield item

    def items(self, value: Any) -> list[Any]:
        """The same as a new list."""
        if isinstance(value, (str, list, tuple, dict, range)):
            self.budget.reserve_list(len(value), 8 if isinstance(value, (list, tuple, dict)) else 40)
            if isinstance(value, str) and not value.isascii():
                self.budget.has(len(value), 80)
        return list(self.turns(value))

    def attribute(self, value: Any, name: str) -> Any:
        """value.name: a method, else a key; of a namespace what it holds."""
        self.budget.work()
        if isinstance(value, Namespace):
            return value.values[name] if name in value.values else self.undefined(name, value)
        found = self.method(value, name)
        if found is not None:
            return found
        if isinstance(value, dict) and name in value:
            return value[name]
        return self.undefined(name, check_defined(value))

    def item(self, value: Any, key: Any) -> Any:
        """value[key]: a key or an index, else a method."""
        self.budget.weigh(key)
        check_defined(value)
        if isinstance(value, (str, list, tuple, dict, range)):
            try:
                found = value[key]
                if type(value) is str:
                    self.budget.made(found)
                return found
            except (TypeError, LookupError):
                pass
        if isinstance(key, str):
            if isinstance(value, Namespace):
                return self.attribute(value, key)
            found = self.method(value, key)
            if found is not None:
                return found
        return self.undefined(key, value)

    def method(self, value: Any, name: str) -> Any:
        if isinstance(value, Loop):
            if name in _LOOP_VALUES:
                return getattr(value, name)
            if name in _LOOP_METHODS:
                self.budget.has(1, 300)
                return Function(name, lambda *args: getattr(value, name)(*self.budget.weigh(args)))
        kind = str if isinstance(value, str) else type(value)
        if name in _METHODS.get(kind, ()):
            self.budget.has(1, 300)
            return Function(name, lambda *args, **kwargs: self._call_method(value, name, args, kwargs))
        if isinstance(value, Undefined):
            if name.startswith("__"):
                return _out_of_bounds(name)
            return None
        if name.startswith("_") or hasattr(kind, name):
            return _out_of_bounds(name)
        return None

    def slice(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        check_defined(value)
        if not isinstance(value, (str, list, tuple, range)):
            raise TypeError(f"a {type(value).__name__} cannot be sliced")
        part = slice(start, stop, step)
        length = len(range(*part.indices(len(value))))
        if isinstance(value, str):
            self.budget.reserve_text(length, value)
        else:
            self.budget.reserve_list(length)
        return self.mark(value[part]) if isinstance(value, Safe) else value[part]

    # ---------------------------------------------------------------- methods

    def _call_method(self, value: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.budget.weigh(args)
        self.budget.weigh(kwargs)
        if isinstance(value, str):
            return self._call_safe(value, name, args, kwargs)
        if kwargs:
            raise TypeError(f"{name} takes no arguments by name")
        if name == "get":
            return dict.get(value, *args)
        if name in ("count", "index"):
            self.budget.weigh(value)
            return getattr(type(value), name)(value, *args)
        if args:
            raise TypeError(f"{name} takes no arguments")
        self.budget.reserve_list(len(value), 80 if name == "items" else 40 if name == "copy" else 8)
        made = getattr(value, name)()
        return made if name == "copy" else list(made)

    def _call_safe(self, value: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        made = self._call_text(str(value), name, args, kwargs)
        if not isinstance(value, Safe) or name in _QUESTIONS:
            return made
        if name not in _PARTS | _SAME_LENGTH or not isinstance(made, str):
            raise refuse(f"uses {name} on text that it marked as safe")
        return self.mark(made)

    def _call_text(self, text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        budget = self.budget
        budget.work(1 + len(text) // 64)
        if name == "replace":
            return self.replace(text, *args, **kwargs)
        if name == "join":
            (items,) = args
            return self.join([_only_text(item) for item in self.turns(items)], text)
        if name == "format":
            return self.format(text, args, kwargs)
        if name in _PADDED:
            width = args[0] if args else 0
            if not isinstance(width, int):
                raise TypeError(f"{name} takes an integer")
            budget.reserve_text(max(width, len(text)), text, *map(_only_text, args[1:]))
        elif name in _SAME_LENGTH:
            budget.reserve_text(len(text) * (1 if text.isascii() else 3), text)
        elif name in _PARTS:
            if name in ("strip", "lstrip", "rstrip") and args and args[0] is not None:
                budget.work(len(text) * (len(_only_text(args[0])) + 63) // 64)
            budget.reserve_text(len(text), text)
        elif name in _SPLITS:
            self._reserve_split(text, name, args, kwargs)
        made = getattr(str, name)(text, *args, **kwargs)
        if not isinstance(made, (str, list, tuple)):
            return budget.made(made)
        return made

    def _reserve_split(self, text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name == "splitlines":
            count = sum(map(text.count, _LINE_ENDS))
        else:
            separator = kwargs.get("sep", args[0] if args else None)
            most = kwargs.get("maxsplit", args[1] if len(args) > 1 else -1)
            count = len(text) // 2 + 1 if separator is None else text.count(_only_text(separator))
            if isinstance(most, int) and most >= 0:
                count = min(count, most)
        self.budget.reserve_text(len(text), text)
        self.budget.reserve_list(count + 1, 8 + 64 if text.isascii() else 8 + 80)

    def replace(self, text: str, old: Any, new: Any, count: int = -1) -> str:
        old, new = _only_text(old), _only_text(new)
        found = text.count(old)
        times = found if not isinstance(count, int) or count < 0 else min(found, count)
        self.budget.reserve_text(len(text) + times * max(len(new) - len(old), 0), text, new)
        return text.replace(old, new, count)

    def join(self, texts: list[str], separator: str) -> str:
        length = sum(map(len, texts)) + len(separator) * max(len(texts) - 1, 0)
        self.budget.reserve_text(length, separator, *texts)
        return separator.join(texts)

    def format(self, text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """str.format with plain fields: numbers or names, a width and a precision."""
        left = text.replace("{{", "").replace("}}", "")
        if "{" in _FORMAT_FIELD.sub("", left):
            raise refuse("formats text by an elaborate field")
        grown = 0
        for index, field in enumerate(_FORMAT_FIELD.finditer(left)):
            name = field[1]
            value = kwargs.get(name, "") if name and not name.isdigit() else _at(args, int(name) if name else index)
            if not isinstance(value, (str, int, float)):
                raise refuse(f"formats a {type(value).__name__.lower()}")
            grown += _field_size(field[3], field[4]) + len(self.text(value))
        self.budget.reserve_text(len(text) + grown, text, "\U0001f600")
        return text.format(*args, **kwargs)

    def printf(self, text: str, values: Any) -> str:
        """text % values, without widths from the values."""
        if "%" in _PRINTF.sub("", text):
            raise refuse("formats text by an elaborate field")
        given = list(values.values()) if isinstance(values, dict) else values if isinstance(values, tuple) else [values]
        grown = 0
        for field in _PRINTF.finditer(text):
            grown += _field_size(field[2], field[3])
            if field[1] is not None and isinstance(values, dict):
                grown += 2 * len(self.text(values.get(field[1], "")))
        shown = tuple(self._plain(value) for value in given)
        grown += sum(10 * len(value) if isinstance(value, str) else 340 for value in shown)
        self.budget.reserve_text(len(text) + grown, text, "\U0001f600")
        if isinstance(values, dict):
            return text % dict(zip(values, shown, strict=True))
        return text % shown

    def _plain(self, value: Any) -> Any:
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else self.text(value)

    # ---------------------------------------------------------------- operators

    def unary(self, sign: str, value: Any) -> Any:
        if not isinstance(check_defined(value), (int, float)):
            raise TypeError(f"a {type(value).__name__} has no sign")
        return self.budget.made(-value if sign == "-" else +value)

    def binary(self, sign: str, left: Any, right: Any) -> Any:
        check_defined(left)
        check_defined(right)
        if isinstance(left, Safe) or isinstance(right, Safe):
            if sign != "+" or not isinstance(left, str) or not isinstance(right, str):
                raise refuse("computes with text that it marked as safe")
            return self.mark(self.concat([str(self.escape(left)), str(self.escape(right))]))
        budget = self.budget
        if sign == "%" and isinstance(left, str):
            return self.printf(left, right)
        if sign == "+" and type(left) is type(right) and isinstance(left, (str, list, tuple)):
            if isinstance(left, str):
                budget.reserve_text(len(left) + len(right), left, right)
            else:
                budget.reserve_list(len(left) + len(right))
            return left + right
        if sign == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, (str, list, tuple)) and isinstance(times, int):
                    if isinstance(value, str):
                        budget.reserve_text(len(value) * max(times, 0), value)
                    else:
                        budget.reserve_list(len(value) * max(times, 0))
                    return value * times
        if not isinstance(left, (int, float)) or not isinstance(right, (int, float)):
            raise TypeError(f"unsupported operands of {sign}: {type(left).__name__} and {type(right).__name__}")
        if sign == "**" and isinstance(left, int) and isinstance(right, int):
            if right > 4 * MAX_INTEGER_BITS and abs(left) > 1:
                raise ChatTemplateError(f"the chat template computes an integer of more than {MAX_INTEGER_BITS} bits")
            if right < -4 * MAX_INTEGER_BITS:
                right = float(right)
        return budget.made(_OPERATORS[sign](left, right))

    def compare(self, sign: str, left: Any, right: Any) -> bool:
        if sign in ("lt", "lteq", "gt", "gteq"):
            check_defined(left)
            check_defined(right)
        self.budget.weigh(left)
        self.budget.weigh(right)
        return bool(_COMPARISONS[sign](left, right))

    # ---------------------------------------------------------------- numbers

    def range(self, *args: Any) -> range:
        made = range(*args)
        if max(map(abs, (made.start, made.stop, made.step))) >= 2**63 or len(made) > MAX_RANGE:
            raise ChatTemplateError(f"the chat template uses a range of more than {MAX_RANGE} items")
        return made

    def dictionary(self, pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        self.budget.reserve_list(len(pairs), 120)
        for key, _ in pairs:
            if key is not None and not isinstance(key, (str, int, float)):
                raise refuse(f"has a {type(key).__name__.lower()} as a key")
            self.budget.weigh(key)
        return dict(pairs)


def _only_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {type(value).__name__}")
    return value


def _out_of_bounds(name: str) -> Undefined:
    return Undefined(f"the attribute {name[:100]!r} is out of bounds", name=name, exc=SecurityError)


def _at(values: tuple[Any, ...], index: int) -> Any:
    return values[index] if index < len(values) else ""


def _field_size(width: str | None, precision: str | None) -> int:
    sizes = [int(size) if len(size) < 8 else MAX_SIZE + 1 for size in (width or "0", precision or "0")]
    if max(sizes) > MAX_SIZE:
        raise ChatTemplateError(f"the chat template makes a value of more than {MAX_SIZE} characters or items")
    return sum(sizes) + 340  # a float's digits


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
    "in": lambda item, container: item in container,
    "notin": lambda item, container: item not in container,
}
