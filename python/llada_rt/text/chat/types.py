"""What there is in a chat template beside numbers, text and containers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from jinja2 import Undefined
from jinja2.runtime import LoopContext

from ...errors import ChatTemplateError
from .marks import Marked


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


class Safe(Marked):
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
