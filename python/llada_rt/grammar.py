"""Grammar: what a text may be, as an automaton over characters. Made from a regular expression or a list of texts.

The automaton is nondeterministic and stays so: it is as large as the expression, while a deterministic one may double
with each character of it. A state of reading is a set of its nodes. Expressions are Python's, matched in full, without
what is not regular or not about characters: anchors, look-around, back-references, flags.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from .errors import InvalidRequestError

MAX_NODES = 20_000
MAX_REGEX_CHARS = 4096
States = frozenset[int]

_CATEGORIES: dict[str, Callable[[str], bool]] = {
    "CATEGORY_DIGIT": str.isdecimal,
    "CATEGORY_SPACE": str.isspace,
    "CATEGORY_WORD": lambda c: c.isalnum() or c == "_",
}

_UNSUPPORTED = {"AT": "anchors", "ASSERT": "look-around", "ASSERT_NOT": "look-around", "GROUPREF": "back-references"}


@dataclass(frozen=True, slots=True)
class Characters:
    """A set of characters: ranges and categories, or all others."""

    ranges: tuple[tuple[int, int], ...] = ()
    categories: tuple[tuple[str, bool], ...] = ()  # (name, negated)
    is_negated: bool = False

    def __contains__(self, character: str) -> bool:
        code = ord(character)
        inside = any(low <= code <= high for low, high in self.ranges) or any(
            _CATEGORIES[name](character) != negated for name, negated in self.categories
        )
        return inside != self.is_negated

    @property
    def only(self) -> str | None:
        """The character, if there is just one."""
        if self.is_negated or self.categories or len(self.ranges) != 1 or self.ranges[0][0] != self.ranges[0][1]:
            return None
        return chr(self.ranges[0][0])


class Grammar:
    """`pick`: a character of a set that can be written with few tokens, None if none can."""

    def __init__(self, regex: str, pick: Callable[[Characters], str | None]) -> None:
        self._pick = pick
        self._edges: list[list[tuple[Characters, int]]] = []
        self._empty: list[list[int]] = []  # edges that read nothing
        start = self._node()
        self._end = self._build(_parse(regex), start)
        self._closures: dict[int, States] = {}
        self._read: dict[tuple[States, str], States] = {}
        self._way: dict[int, tuple[int, str, int]] = self._ways()
        self.start = self._closure([start])

    def accepts(self, states: States) -> bool:
        return self._end in states

    def can_go_on(self, states: States) -> bool:
        """Whether any character may follow."""
        return any(self._edges[node] for node in states)

    def read(self, states: States, text: str) -> States:
        """The states after some more text; empty: it does not fit."""
        for character in text:
            key = states, character
            if key not in self._read:
                self._read[key] = self._closure(
                    target for node in states for characters, target in self._edges[node] if character in characters
                )
            states = self._read[key]
            if not states:
                break
        return states

    def shortest(self, states: States) -> str | None:
        """The shortest text, in characters that can be written, that completes one begun; None: there is none."""
        node = min((node for node in states if node in self._way), key=lambda node: self._way[node][0], default=None)
        if node is None:
            return None
        text = ""
        while node != self._end:
            _, character, node = self._way[node]
            text += character
        return text

    def forced(self, states: States) -> str:
        """The text that must come next, whatever is written."""
        text = ""
        while not self.accepts(states) and len(text) < MAX_REGEX_CHARS:
            sets = {characters for node in states for characters, _ in self._edges[node]}
            only = next(iter(sets)).only if len(sets) == 1 else None
            if only is None:
                break
            text += only
            states = self.read(states, only)
        return text

    # ---------------------------------------------------------------- making it

    def _node(self) -> int:
        if len(self._edges) == MAX_NODES:
            raise InvalidRequestError(
                f"regex: the expression is too large: expected at most {MAX_NODES} steps when written out",
                param="regex",
                hint="smaller repetition counts",
            )
        self._edges.append([])
        self._empty.append([])
        return len(self._edges) - 1

    def _build(self, items: Iterable[tuple[Any, Any]], node: int) -> int:
        """Add a sequence of parsed items after a node; returns its last node."""
        for kind, value in items:
            node = self._item(str(kind), value, node)
        return node

    def _item(self, kind: str, value: Any, node: int) -> int:
        if kind in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            after = self._node()
            self._edges[node].append((_characters(kind, value), after))
            return after
        if kind == "SUBPATTERN":
            _, added, removed, items = value
            if added or removed:
                raise _unsupported("flags")
            return self._build(items, node)
        if kind == "BRANCH":
            after = self._node()
            for items in value[1]:
                begin = self._node()
                self._empty[node].append(begin)
                self._empty[self._build(items, begin)].append(after)
            return after
        if kind in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, items = value
            return self._repeat(least, most, items, node)
        raise _unsupported(_UNSUPPORTED.get(kind, kind.lower().replace("_", " ")))

    def _repeat(self, least: int, most: Any, items: Any, node: int) -> int:
        for _ in range(least):
            node = self._build(items, node)
        after = self._node()
        if str(most) == "MAXREPEAT":
            loop = self._node()
            self._empty[node].append(loop)
            self._empty[self._build(items, loop)].append(loop)
            self._empty[loop].append(after)
            return after
        for _ in range(int(most) - least):
            self._empty[node].append(after)
            begin = self._node()
            self._empty[node].append(begin)
            node = self._build(items, begin)
        self._empty[node].append(after)
        return after

    def _closure(self, nodes: Iterable[int]) -> States:
        found: set[int] = set()
        waiting = list(nodes)
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                waiting += self._empty[node]
        return frozenset(found)

    def _ways(self) -> dict[int, tuple[int, str, int]]:
        """Of each node the shortest way to the end: (characters, the next one or "", the next node)."""
        before: list[list[tuple[str, int]]] = [[] for _ in self._edges]
        picked: dict[Characters, str | None] = {}
        for node, edges in enumerate(self._edges):
            for target in self._empty[node]:
                before[target].append(("", node))
            for characters, target in edges:
                if characters not in picked:
                    picked[characters] = self._pick(characters)
                if (character := picked[characters]) is not None:
                    before[target].append((character, node))
        ways = {self._end: (0, "", self._end)}
        waiting = deque([self._end])
        while waiting:
            target = waiting.popleft()
            length = ways[target][0]
            for character, node in before[target]:
                if node not in ways or ways[node][0] > length + len(character):
                    ways[node] = (length + len(character), character, target)
                    (waiting.append if character else waiting.appendleft)(node)
        return ways


def _parse(regex: str) -> Iterable[tuple[Any, Any]]:
    """The expression as the standard library reads it."""
    if not isinstance(regex, str) or not 1 <= len(regex) <= MAX_REGEX_CHARS:
        raise InvalidRequestError(
            f"regex: expected an expression of 1 to {MAX_REGEX_CHARS} characters, got {str(regex)[:40]!r}",
            param="regex",
        )
    try:
        parsed = import_module("re._parser").parse(regex)
    except (re.error, RecursionError, OverflowError) as error:
        raise InvalidRequestError(f"regex: {str(error)[:200]}", param="regex") from None
    if parsed.state.flags & ~re.UNICODE:
        raise _unsupported("flags")
    items: Iterable[tuple[Any, Any]] = parsed
    return items


def _characters(kind: str, value: Any) -> Characters:
    if kind == "LITERAL":
        return Characters(((value, value),))
    if kind == "NOT_LITERAL":
        return Characters(((value, value),), is_negated=True)
    if kind == "ANY":
        return Characters(((10, 10),), is_negated=True)
    ranges, categories, is_negated = [], [], False
    for what, part in value:
        name = str(what)
        if name == "NEGATE":
            is_negated = True
        elif name == "CATEGORY":
            category = str(part).replace("_NOT_", "_")
            categories.append((category, category != str(part)))
        else:
            ranges.append((part, part) if name == "LITERAL" else part)
    return Characters(tuple(ranges), tuple(categories), is_negated)


def _unsupported(what: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"regex: {what} cannot be used here",
        param="regex",
        hint="literals, sets, groups, | and repetitions can; the whole text is matched",
    )


def regex_of(choice: Sequence[str]) -> str:
    """The expression for one of some texts."""
    return "|".join(re.escape(text) for text in choice)
