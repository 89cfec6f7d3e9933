"""Transcript: the text of one response as it becomes final. Pure; a request's canvas is told to it as it fills.

Only the ids before the first mask count, and of their text only what no later id can change. Held back are a character
whose bytes are not complete and an ending that may become a stop string; nothing follows an end token or a stop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

REPLACEMENT = "\ufffd"  # what a decoder shows for bytes that are not a whole character


@dataclass(frozen=True, slots=True)
class StopRule:
    """What ends a text.

    A stop string counts where it is first complete, reading from left to right; if several are complete there, the one
    that begins first. So it does not matter in which pieces the text arrives.
    """

    end_tokens: frozenset[int] = frozenset()  # the model's; never part of the text
    token_ids: frozenset[int] = frozenset()  # the caller's
    strings: tuple[str, ...] = ()
    include: bool = False  # the caller's stops stay in ids and text
    begin: int = 0  # ids before this one, of a template, end nothing

    def find(self, text: str, begin: int) -> tuple[int, int, str] | None:
        """(start, end, string) of the stop that ends first, of those that end after `begin`."""
        found = None
        for string in self.strings:
            start = text.find(string, max(0, begin - len(string) + 1))
            if start >= 0:
                match = (start + len(string), start, string)
                found = match if found is None else min(found, match)
        return None if found is None else (found[1], found[0], found[2])

    def num_held(self, text: str) -> int:
        """Length of the longest ending of the text that a stop string begins with."""
        longest = max(map(len, self.strings), default=0)
        for length in range(min(longest - 1, len(text)), 0, -1):
            ending = text[len(text) - length :]
            if any(len(string) > length and string.startswith(ending) for string in self.strings):
                return length
        return 0


class Transcript:
    """Text and ids of a response. `decode` turns ids into text, None: there is no tokenizer and the text stays empty.

    `is_incremental`: the text of more ids begins with the text of fewer, but for replacement characters at its end.
    A decoder without this property gives its text when the response is complete.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str] | None, rule: StopRule, *, is_incremental: bool) -> None:
        self._decode = decode
        self._rule = rule
        self._is_incremental = is_incremental
        self._num_read = 0  # ids
        self._num_searched = 0  # characters without a stop
        self.text = ""  # it only grows
        self.token_ids: list[int] = []
        self.is_ended = False  # by an end token or a stop: what follows does not count
        self.stop_reason: str | int | None = None  # the caller's stop that ended it

    def update(self, ids: Sequence[int], *, is_complete: bool = False) -> str:
        """Take the ids before the first mask; returns what the text grew by.

        `is_complete`: no more will come, and nothing is held back. Once the text has ended, calls change nothing.
        """
        if self.is_ended or (len(ids) == self._num_read and not is_complete):
            return ""
        end = self._first_end(ids)
        stop_id = None
        if end is not None:
            stop_id = ids[end] if ids[end] in self._rule.token_ids else None
            ids = ids[: end + (stop_id is not None and self._rule.include)]
        self._num_read = len(ids)
        self.token_ids = list(ids)
        text = self._text_of(ids, is_final=is_complete or end is not None)
        stop = self._rule.find(text, self._num_searched)
        self._num_searched = len(text)
        if stop is not None:
            start, after, self.stop_reason = stop
            text = text[: after if self._rule.include else start]
            self.token_ids = self._ids_for(text)
            self.is_ended = True
        elif end is not None:
            self.stop_reason = stop_id
            self.is_ended = True
        elif not is_complete:
            text = text[: len(text) - self._rule.num_held(text)]
        grown, self.text = text[len(self.text) :], text
        return grown

    def _first_end(self, ids: Sequence[int]) -> int | None:
        ends: Collection[int] = self._rule.end_tokens | self._rule.token_ids
        return (
            next(
                (index for index in range(max(self._num_read, self._rule.begin), len(ids)) if ids[index] in ends), None
            )
            if ends
            else None
        )

    def _text_of(self, ids: Sequence[int], *, is_final: bool) -> str:
        if self._decode is None:
            return ""
        if is_final:
            return self._decode(ids)
        return self._decode(ids).rstrip(REPLACEMENT) if self._is_incremental else ""

    def _ids_for(self, text: str) -> list[int]:
        """The fewest leading ids whose text holds `text`."""
        assert self._decode is not None
        low, high = 0, len(self.token_ids)
        while low < high:
            middle = (low + high) // 2
            if len(self._decode(self.token_ids[:middle]).rstrip(REPLACEMENT)) >= len(text):
                high = middle
            else:
                low = middle + 1
        return self.token_ids[:low]
