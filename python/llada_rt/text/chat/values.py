"""Values of a chat template: their attributes, methods and operators, which are listed here and each paid for.

Values are None, bool, int, float, str, list, tuple, dict, range, a namespace, a function of ours, or undefined. Nothing
else ever arises, so no attribute of a Python object can be reached.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

from jinja2 import Undefined
from jinja2.exceptions import SecurityError

from ...errors import ChatTemplateError
from .budget import MAX_INTEGER_BITS
from .marks import Marked, spans_of
from .text import TEXT_METHODS, Texts, only_text
from .types import Function, Lazy, Loop, Namespace, Safe, check_defined, refuse

MAX_RANGE = 100_000  # jinja2's sandbox, too
_METHODS: dict[type, frozenset[str]] = {
    str: TEXT_METHODS,
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


class Values(Texts):
    """Operations on values within one budget."""

    # ---------------------------------------------------------------- parts of values

    def undefined(self, name: object, of: Any = None) -> Undefined:
        self.budget.reserve_items(1, 256)
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
            if isinstance(value, Marked):
                self.budget.reserve_items(len(value), 240)
            if isinstance(value, str) and not value.isascii():
                self.budget.reserve_items(len(value), 80)
        return list(self.turns(value))

    def attribute(self, value: Any, name: str) -> Any:
        """value.name: a method, else a key. A namespace gives what it holds under the name."""
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
                if type(value) in (str, Marked):
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
                self.budget.reserve_items(1, 300)
                return Function(name, lambda *args: getattr(value, name)(*self.budget.weigh(args)))
        kind = str if isinstance(value, str) else type(value)
        if name in _METHODS.get(kind, ()):
            self.budget.reserve_items(1, 300)
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
        made = value[part]
        if isinstance(made, str):
            self.budget.reserve_marks(made)
            return self.mark(made) if isinstance(value, Safe) else made
        return made

    # ---------------------------------------------------------------- methods

    def _call_method(self, value: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.budget.weigh(args)
        self.budget.weigh(kwargs)
        if isinstance(value, str):
            if name == "join":
                args = ([only_text(item) for item in self.items(*args)],)
            return self.call_text(value, name, args, kwargs)
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
            return self.mark(self.concat([self.text(self.escape(left)), self.text(self.escape(right))]))
        budget = self.budget
        if sign == "%" and isinstance(left, str):
            return self.printf(left, right)
        if sign == "+" and isinstance(left, str) and isinstance(right, str):
            return self.join([left, right], "")
        if sign == "+" and type(left) is type(right) and isinstance(left, (list, tuple)):
            budget.reserve_list(len(left) + len(right))
            return left + right
        if sign == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, (str, list, tuple)) and isinstance(times, int):
                    if isinstance(value, str):
                        budget.reserve_text(len(value) * max(times, 0), value)
                        budget.reserve_items(len(spans_of(value)) * max(times, 0), 120)
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
        if sign in ("in", "notin") and isinstance(right, (Lazy, range)):
            return any(self.compare("eq", left, item) for item in self.turns(right)) == (sign == "in")
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


def _out_of_bounds(name: str) -> Undefined:
    return Undefined(f"the attribute {name[:100]!r} is out of bounds", name=name, exc=SecurityError)


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
