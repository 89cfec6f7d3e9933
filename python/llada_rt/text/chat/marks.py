"""Text that remembers which of its characters a caller gave, whatever a chat template does to the text.

A template that writes <|eot_id|> means the token; a caller's message that says <|eot_id|> means the characters. The
marks tell the tokenizer which is which (plain_text.py). An operation that keeps characters keeps their marks. If an
operation makes new characters out of marked ones, all of the result is marked.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, SupportsIndex

Spans = tuple[tuple[int, int], ...]  # (start, stop) of marked characters, in order, none next to another

MAX_PRECISE = 1000  # occurrences that `replace` tells apart; beyond, what replaces marked text is marked


class Marked(str):
    """Text with marked stretches."""

    __slots__ = ("spans",)
    spans: Spans

    def __new__(cls, text: str, spans: Spans = ()) -> Marked:
        made = super().__new__(cls, text)
        made.spans = spans
        return made

    # ---------------------------------------------------------------- parts

    def cut(self, start: int, stop: int) -> str:
        """self[start:stop], for places within the text."""
        if start >= stop:
            return ""
        part = str.__getitem__(self, slice(start, stop))
        first = bisect_right(self.spans, start, key=lambda span: span[1])
        spans = []
        for begin, end in self.spans[first:] if first else self.spans:
            if begin >= stop:
                break
            spans.append((max(begin, start) - start, min(end, stop) - start))
        return with_spans(part, tuple(spans))

    def __getitem__(self, key: SupportsIndex | slice[Any, Any, Any]) -> str:
        if not isinstance(key, slice):
            at = range(len(self))[key]
            return self.cut(at, at + 1)
        start, stop, step = key.indices(len(self))
        return self.cut(start, stop) if step == 1 else like(str.__getitem__(self, key), self)

    def __iter__(self) -> Iterator[str]:
        return (self.cut(at, at + 1) for at in range(len(self)))

    def _stripped(self, name: str, chars: str | None) -> str:
        length = len(getattr(str, name)(self, chars))
        start = len(self) - len(str.lstrip(self, chars)) if name != "rstrip" and length else 0
        return self.cut(start, start + length)

    def strip(self, chars: str | None = None, /) -> str:
        return self._stripped("strip", chars)

    def lstrip(self, chars: str | None = None, /) -> str:
        return self._stripped("lstrip", chars)

    def rstrip(self, chars: str | None = None, /) -> str:
        return self._stripped("rstrip", chars)

    def removeprefix(self, prefix: str, /) -> str:
        return self.cut(len(self) - len(str.removeprefix(self, prefix)), len(self))

    def removesuffix(self, suffix: str, /) -> str:
        return self.cut(0, len(str.removesuffix(self, suffix)))

    def _consecutive(self, lengths: Iterable[int], gaps: Iterable[int]) -> Iterator[str]:
        at = 0
        for length, gap in zip(lengths, gaps, strict=True):
            yield self.cut(at, at + length)
            at += length + gap

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        first, second, third = self._consecutive(map(len, str.partition(self, sep)), (0, 0, 0))
        return first, second, third

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        first, second, third = self._consecutive(map(len, str.rpartition(self, sep)), (0, 0, 0))
        return first, second, third

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._found(str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._found(str.rsplit(self, sep, maxsplit), sep)

    def _found(self, parts: list[str], sep: str | None) -> list[str]:
        if sep is not None:
            return list(self._consecutive(map(len, parts), [len(sep)] * len(parts)))
        found, at = [], 0
        for part in parts:  # none of them begins in the white space before it
            at = self.find(part, at)
            found.append(self.cut(at, at + len(part)))
            at += len(part)
        return found

    def splitlines(self, keepends: bool = False) -> list[str]:
        lengths = [len(part) for part in str.splitlines(self, keepends)]
        whole = [len(part) for part in str.splitlines(self, True)]
        return list(self._consecutive(lengths, [full - kept for full, kept in zip(whole, lengths, strict=True)]))

    # ---------------------------------------------------------------- more text

    def __add__(self, other: str) -> str:
        return joined("", (self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> str:
        return joined("", (other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> str:
        return joined("", [self] * times.__index__())

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> str:
        return like(str.__mod__(self, values), self, values)

    def __rmod__(self, text: str) -> str:
        return like(str.__mod__(text, self), self)

    def join(self, texts: Iterable[str], /) -> str:
        return joined(self, list(texts))

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        whole = str.replace(self, old, new, count)
        most = count.__index__()
        found = str.count(self, old) if old else 0
        times = found if most < 0 else min(found, most)
        if not old or times > MAX_PRECISE:
            return like(whole, self, new)
        pieces: list[str] = []
        at = 0
        for _ in range(times):
            place = self.find(old, at)
            pieces += (self.cut(at, place), new)
            at = place + len(old)
        return joined("", [*pieces, self.cut(at, len(self))])


def _coarse(name: str, keeps_length: bool) -> Callable[..., str]:
    method = getattr(str, name)

    def call(self: Marked, *args: Any, **kwargs: Any) -> str:
        made: str = method(self, *args, **kwargs)
        if keeps_length and len(made) == len(self):  # no character becomes less than one
            return with_spans(made, self.spans)
        return like(made, self, args, kwargs)

    return call


for _name in ("capitalize", "casefold", "lower", "swapcase", "title", "upper"):
    setattr(Marked, _name, _coarse(_name, True))
for _name in ("center", "expandtabs", "format", "format_map", "ljust", "rjust", "translate", "zfill"):
    setattr(Marked, _name, _coarse(_name, False))


def spans_of(text: str) -> Spans:
    return text.spans if isinstance(text, Marked) else ()


def with_spans(text: str, spans: Spans) -> str:
    """Exact str if nothing is marked."""
    return Marked(text, spans) if spans else str(text)


def whole(text: str) -> str:
    """The text, all of it marked."""
    return with_spans(text, ((0, len(text)),) if text else ())


def like(made: str, *sources: Any) -> str:
    """What was made of the sources in some way: all marked if anything in them is."""
    return whole(made) if any(map(has_marks, sources)) else made


def has_marks(value: Any) -> bool:
    if isinstance(value, str):
        return bool(spans_of(value))
    if isinstance(value, Mapping):
        return any(has_marks(key) or has_marks(item) for key, item in value.items())
    return isinstance(value, (list, tuple)) and any(map(has_marks, value))


def joined(separator: str, texts: Sequence[str]) -> str:
    """separator.join(texts)."""
    made = str.join(str(separator), texts)
    between = spans_of(separator)
    if not between and not any(map(spans_of, texts)):
        return made
    spans: list[tuple[int, int]] = []
    at = 0
    for index, text in enumerate(texts):
        if index:
            _extend(spans, between, at)
            at += len(separator)
        _extend(spans, spans_of(text), at)
        at += len(text)
    return with_spans(made, tuple(spans))


def _extend(spans: list[tuple[int, int]], more: Spans, at: int) -> None:
    for start, stop in more:
        if spans and spans[-1][1] == start + at:
            spans[-1] = (spans[-1][0], stop + at)
        else:
            spans.append((start + at, stop + at))


def mark_all(value: Any) -> Any:
    """Plain JSON values with every text in them marked."""
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, Mapping):
        return {mark_all(key): mark_all(item) for key, item in value.items()}
    return [mark_all(item) for item in value] if isinstance(value, (list, tuple)) else value
