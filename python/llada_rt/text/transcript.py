"""Transcript: the text of one response as it becomes final. Pure: the caller hands in the ids as the canvas fills.

Only the ids before the first mask count, and only text that no later id can change. Held back are a character whose
bytes are not complete, and an ending that may become a stop string. Nothing follows an end token or a stop.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

REPLACEMENT = "\ufffd"  # what a decoder shows for bytes that are not a whole character


@dataclass(frozen=True, slots=True)
class ControlStop:
    """A stop string that names control tokens: parts[0] tokens[0] parts[1] ... parts[-1], empty parts among them.

    The string is looked for in the text as the text would be if control tokens were shown.
    """

    string: str
    parts: tuple[str, ...]  # one more than tokens
    tokens: tuple[int, ...]


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
    controls: tuple[ControlStop, ...] = ()  # of the strings those that name control tokens
    control_ids: frozenset[int] = frozenset()  # all control tokens

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


class Mark(NamedTuple):
    """A control token among the ids."""

    place: int  # its index
    token: int
    before: str  # the text of the ids before it


class ControlMatch(NamedTuple):
    """Where a ControlStop was found. The least of several is the first to be complete, then the first to begin."""

    after: int  # index of the id after its last, so far as it is known
    end: int  # characters of the text up to its end
    start: int  # characters of `before` that stay
    before: str  # the text of the ids before its first control token
    first: int  # index of that
    last: int  # index of its last control token
    stop: ControlStop

    def is_behind(self, start: int, end: int) -> bool:
        """Whether a stop of plain text from `start` to `end` counts before it."""
        if not self.stop.parts[-1]:  # its last token comes after the character before it
            return end <= self.end
        return (end, start) <= (self.end, self.start)


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
        self._marks: list[Mark] = []  # if there are stops that name control tokens
        self._num_marked = 0  # ids looked through for them
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
        control = self._find_control(ids if end is None else ids[: end + 1])
        if end is not None:
            stop_id = ids[end] if ids[end] in self._rule.token_ids else None
            if stop_id is not None and control is not None and control.last == end:
                control = None
            if control is None or control.last < end:
                ids = ids[: end + (stop_id is not None and self._rule.include)]
        self._num_read = len(ids)
        self.token_ids = list(ids)
        is_final = is_complete or end is not None
        text = self._text_of(ids, is_final=is_final) if control is None else self._text_at(control, ids)
        stop = self._rule.find(text, self._num_searched)
        self._num_searched = len(text)
        if stop is not None and (control is None or control.is_behind(stop[0], stop[1])):
            start, after, self.stop_reason = stop
            text = text[: after if self._rule.include else start]
            self.token_ids = self._ids_for(text, self.token_ids)
            self.is_ended = True
        elif control is not None:
            self.stop_reason = control.stop.string
            if not self._rule.include:
                text = control.before[: control.start]
                self.token_ids = self._ids_for(text, self.token_ids[: control.first])
            elif control.stop.parts[-1]:
                self.token_ids = self.token_ids[: control.after]
            else:
                self.token_ids = self.token_ids[: control.last + 1]
            self.is_ended = True
        elif end is not None:
            self.stop_reason = stop_id
            self.is_ended = True
        elif not is_complete:
            text = text[: len(text) - max(self._rule.num_held(text), self._num_held_for_control(text))]
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

    def num_told(self, known: int) -> int:
        """How many of `token_ids` the text so far takes; no stop can take these back. At least `known`."""
        return max(known, len(self._ids_for(self.text, self.token_ids, known))) if self.text else known

    def _ids_for(self, text: str, ids: list[int], known: int = 0) -> list[int]:
        """The fewest leading ids whose text begins with `text`; `known` of them at least."""
        if self._is_incremental:
            low, high = min(known, len(ids)), len(ids)
            while low < high:
                middle = (low + high) // 2
                if self._text_of(ids[:middle], is_final=True).startswith(text):
                    high = middle
                else:
                    low = middle + 1
            return ids[:low]
        shorter = 0  # its text is all of it but the spaces that only a later token brings
        for count in range(len(ids) + 1):
            shown = self._text_of(ids[:count], is_final=True)
            if shown == text:
                return ids[:count]
            if shown.startswith(text):
                return ids[: shorter or count]
            if text.startswith(shown) and text[len(shown) :].isspace():
                shorter = count
        return ids[:shorter] if shorter else ids

    # ---------------------------------------------------------------- stops that name control tokens

    def _find_control(self, ids: Sequence[int]) -> ControlMatch | None:
        """The first of them that is complete in the ids."""
        if not self._rule.controls or self._decode is None:
            return None
        for index in range(self._num_marked, len(ids)):
            if ids[index] in self._rule.control_ids:
                self._marks.append(Mark(index, ids[index], self._decode(ids[:index])))
        self._num_marked = max(self._num_marked, len(ids))
        matches = [
            match
            for stop in self._rule.controls
            for first in range(len(self._marks) - len(stop.tokens) + 1)
            if (match := self._match(stop, first, ids)) is not None
        ]
        return min(matches, key=lambda match: match[:3], default=None)

    def _match(self, stop: ControlStop, first: int, ids: Sequence[int]) -> ControlMatch | None:
        """The stop with its control tokens at the marks from `first` on."""
        assert self._decode is not None
        start = self._start_of(stop, first, len(stop.tokens))
        if start is None:
            return None
        opening, last = self._marks[first], self._marks[first + len(stop.tokens) - 1]
        after = last.place + 1
        end = len(last.before) + len(stop.parts[-1])
        if stop.parts[-1]:
            following = first + len(stop.tokens)
            stop_at = self._marks[following].place if following < len(self._marks) else len(ids)
            if not self._decode(ids[:stop_at]).startswith(last.before + stop.parts[-1]):
                return None
            wanted = last.before + stop.parts[-1]
            while not self._decode(ids[:after]).startswith(wanted):
                after += 1
        return ControlMatch(after, end, start, opening.before, opening.place, last.place, stop)

    def _start_of(self, stop: ControlStop, first: int, count: int) -> int | None:
        """Where the stop begins in the text before the mark `first`, if its first `count` tokens and what is between
        them are at the marks from there on.
        """
        marks = self._marks[first : first + count]
        if tuple(mark.token for mark in marks) != stop.tokens[:count]:
            return None
        start = len(marks[0].before) - len(stop.parts[0])
        shown = len(self._marks[first - 1].before) if first else 0  # what is before belongs to another control token
        if start < shown or not marks[0].before.endswith(stop.parts[0]):
            return None
        between = [later.before[len(mark.before) :] for mark, later in itertools.pairwise(marks)]
        return start if between == list(stop.parts[1:count]) else None

    def _text_at(self, control: ControlMatch, ids: Sequence[int]) -> str:
        """The text up to the end of a match."""
        return self._text_of(ids[: control.after], is_final=True)[: control.end]

    def _num_held_for_control(self, text: str) -> int:
        """Characters at the end of the text that may be the beginning of such a stop."""
        begin = len(text)
        for stop in self._rule.controls:
            shown = len(self._marks[-1].before.rstrip(REPLACEMENT)) if self._marks else 0
            opening = stop.parts[0]
            for length in range(min(len(opening), len(text) - shown), 0, -1):
                if opening.startswith(text[len(text) - length :]):
                    begin = min(begin, len(text) - length)
                    break
            for count in range(1, min(len(stop.tokens), len(self._marks)) + 1):
                first = len(self._marks) - count
                if self._start_of(stop, first, count) is not None and stop.parts[count].startswith(text[shown:]):
                    before = self._marks[first].before.rstrip(REPLACEMENT)
                    begin = min(begin, max(0, len(before) - len(opening)))
        return len(text) - begin
