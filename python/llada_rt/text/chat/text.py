"""Text of a chat template: how values are printed, and the methods of str, all paid for before anything is made."""

from __future__ import annotations

import re
from string import Formatter
from typing import Any

from jinja2 import Undefined
from jinja2.exceptions import SecurityError

from ...errors import ChatTemplateError
from .budget import MAX_SIZE, Budget
from .marks import Marked, has_marks, joined, like, spans_of, whole, with_spans
from .types import Safe, refuse

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
_FROM_THE_END = frozenset(["rfind", "rindex", "rpartition", "rsplit"])
_PADDED = frozenset(["center", "ljust", "rjust", "zfill"])
TEXT_METHODS = _SAME_LENGTH | _QUESTIONS | _PARTS | _SPLITS | _PADDED | {"format", "join", "replace"}
# Possessive, so that a text of zeros is not tried as flags and as a width in all ways.
_PRINTF = re.compile(r"%(?:\((\w++)\))?[#0\- +]*+(\d*+)(?:\.(\d*+))?([sdiufFgGexXr%])")
_FORMAT_FIELD = re.compile(r"\{(\d*|\w+)(?::([<>=^]?[+\- ]?0?(\d*),?(?:\.(\d+))?[sdfgex%]?))?\}")


class Texts:
    """Operations on text within one budget."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    # ---------------------------------------------------------------- printing

    def text(self, value: Any) -> str:
        """As it is printed."""
        if isinstance(value, str) and not isinstance(value, Safe):
            self.budget.work(1 + len(value) // 64)
            return value
        if isinstance(value, str):
            self.budget.reserve_text(len(value), value)  # of text that is marked as safe this is a copy
            return with_spans(value, spans_of(value))
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
            pieces.append(like(repr(str(value)), value))
        elif value is None or isinstance(value, (int, float, range)):
            self._piece(str(value), pieces)
        elif isinstance(value, Undefined):
            self._piece("Undefined", pieces)
        else:
            raise refuse(f"prints a {type(value).__name__.lower()}")

    def _piece(self, text: str, pieces: list[str]) -> None:
        self.budget.reserve_items(1, 80)
        pieces.append(text)

    def concat(self, pieces: list[str]) -> str:
        if len(pieces) == 1 and type(pieces[0]) in (str, Marked):
            return pieces[0]
        return self.join(pieces, "")

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
        return Safe(text, spans_of(text))

    # ---------------------------------------------------------------- methods

    def call_text(self, value: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        made = self._call_text(Marked(value, spans_of(value)), name, args, kwargs)
        if not isinstance(value, Safe) or name in _QUESTIONS:
            return made
        if name not in _PARTS | _SAME_LENGTH or not isinstance(made, str):
            raise refuse(f"uses {name} on text that it marked as safe")
        return self.mark(made)

    def _call_text(self, text: Marked, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        budget = self.budget
        budget.work(1 + len(text) // 64)
        sought = args[0] if args else kwargs.get("sep")
        if name in _FROM_THE_END and isinstance(sought, str):
            budget.work(len(text) * len(sought) // 64)  # CPython compares at each place, where `find` would skip
        if name == "replace":
            return self.replace(text, *args, **kwargs)
        if name == "join":
            (texts,) = args
            return self.join(texts, text)
        if name == "format":
            return self.format(text, args, kwargs)
        if name in _PADDED:
            width = args[0] if args else 0
            if not isinstance(width, int):
                raise TypeError(f"{name} takes an integer")
            budget.reserve_text(max(width, len(text)), text, *map(only_text, args[1:]))
        elif name in _SAME_LENGTH:
            budget.reserve_text(len(text) * (1 if text.isascii() else 3), text)
        elif name in _PARTS:
            if name in ("strip", "lstrip", "rstrip") and args and args[0] is not None:
                budget.work(len(text) * (len(only_text(args[0])) + 63) // 64)
            budget.reserve_text(len(text), text)
        elif name in _SPLITS:
            self._reserve_split(text, name, args, kwargs)
        made = getattr(text, name)(*args, **kwargs)
        if not isinstance(made, (str, list, tuple)):
            return budget.made(made)
        for part in [made] if isinstance(made, str) else made:
            budget.reserve_marks(part)
        return made

    def _reserve_split(self, text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name == "splitlines":
            count = sum(map(text.count, _LINE_ENDS))
        else:
            separator = kwargs.get("sep", args[0] if args else None)
            most = kwargs.get("maxsplit", args[1] if len(args) > 1 else -1)
            count = len(text) // 2 + 1 if separator is None else text.count(only_text(separator))
            if isinstance(most, int) and most >= 0:
                count = min(count, most)
        self.budget.reserve_text(len(text), text)
        self.budget.reserve_list(count + 1, 8 + 64 if text.isascii() else 8 + 80)

    def replace(self, text: str, old: Any, new: Any, count: int = -1) -> str:
        old, new = only_text(old), only_text(new)
        found = text.count(old)
        times = found if not isinstance(count, int) or count < 0 else min(found, count)
        self.budget.reserve_text(len(text) + times * max(len(new) - len(old), 0), text, new)
        made = Marked(text, spans_of(text)).replace(old, new, count)
        self.budget.reserve_marks(made)
        return made

    def join(self, texts: list[str], separator: str) -> str:
        length = sum(map(len, texts)) + len(separator) * max(len(texts) - 1, 0)
        self.budget.reserve_text(length, separator, *texts)
        self.budget.reserve_marks(*texts, *[separator] * len(texts) * bool(spans_of(separator)))
        return joined(separator, texts)

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
        made = str.format(text, *args, **kwargs)
        if not has_marks([text, *args, kwargs]):
            return made
        pieces: list[str] = []
        rest = iter(args)
        for literal, name, width, _ in Formatter().parse(str(text)):
            pieces.append(like(literal, text))
            if name is not None:
                value = next(rest) if not name else args[int(name)] if name.isdigit() else kwargs[name]
                shown = format(value, width or "")
                pieces.append(value if isinstance(value, str) and value == shown else like(shown, value))
        return _of_pieces(made, pieces)

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
        filled: Any = dict(zip(values, shown, strict=True)) if isinstance(values, dict) else shown
        made = str.__mod__(text, filled)
        if not has_marks([text, *shown]):
            return made
        pieces: list[str] = []
        at, rest = 0, iter(shown)
        for field in _PRINTF.finditer(text):
            pieces.append(like(text[at : field.start()], text))
            at = field.end()
            if field[3] == "%":
                pieces.append("%")
                continue
            value = filled[field[1]] if field[1] is not None else next(rest)
            shown_as = _field(field[0], field[1], value)
            pieces.append(value if isinstance(value, str) and value == shown_as else like(shown_as, value))
        return _of_pieces(made, [*pieces, like(text[at:], text)])

    def _plain(self, value: Any) -> Any:
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else self.text(value)


def only_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {type(value).__name__}")
    return value


def _at(values: tuple[Any, ...], index: int) -> Any:
    return values[index] if index < len(values) else ""


def _of_pieces(made: str, pieces: list[str]) -> str:
    """What was formatted, with the marks of the pieces that it should be made of."""
    told = joined("", pieces)
    return told if told == made else whole(made)


def _field(form: str, name: str | None, value: Any) -> str:
    """form % value."""
    return form % ({name: value} if name is not None else (value,))


def _field_size(width: str | None, precision: str | None) -> int:
    sizes = [int(size) if len(size) < 8 else MAX_SIZE + 1 for size in (width or "0", precision or "0")]
    if max(sizes) > MAX_SIZE:
        raise ChatTemplateError(f"the chat template makes a value of more than {MAX_SIZE} characters or items")
    return sum(sizes) + 340  # a float's digits
