"""Regular expressions, read and written out as graphs. The size of a graph is counted before anything is built.

Expressions are Python's, matched in full, without what is not regular or not about characters: anchors, look-around,
back-references, flags.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

from ..errors import InvalidRequestError
from ..excerpt import excerpt_of
from .characters import Characters

MAX_STEPS = 20_000  # of an expression when its repetitions are written out
MAX_DEPTH = 100  # groups and repetitions within each other
MAX_REGEX_CHARS = 4096
States = int  # bit 0: the text may end here; the others: a character may be read there, nearest to the end first

_UNSUPPORTED = {"AT": "anchors", "ASSERT": "look-around", "ASSERT_NOT": "look-around", "GROUPREF": "back-references"}


class Graph:
    """The expression written out: nodes, of each the edge that reads a character and those that read nothing."""

    def __init__(self, items: Iterable[tuple[Any, Any]]) -> None:
        size = _size(items)
        if size > MAX_STEPS:
            shown = str(size) if size < 10**15 else "more than 10**15"
            raise InvalidRequestError(
                f"regex: the expression is too large: expected at most {MAX_STEPS} steps when written out, got {shown}",
                param="regex",
                hint="smaller repetition counts",
            )
        self.sets: dict[Characters, int] = {}
        self.edges: list[tuple[int, int] | None] = []  # (set, target)
        self.empty: list[list[int]] = []  # targets
        self._known: dict[int, int] = {}  # sets by parsed item, which a repetition meets again and again
        self._places: dict[int, int] = {}  # what `place_after` has found
        self.start = self._node()
        self.end = self._build(items, self.start)

    def _node(self) -> int:
        self.edges.append(None)
        self.empty.append([])
        return len(self.edges) - 1

    def _build(self, items: Iterable[tuple[Any, Any]], node: int) -> int:
        """Add a sequence of parsed items after a node; returns its last node."""
        for item in items:
            node = self._item(item, node)
        return node

    def _item(self, item: tuple[Any, Any], node: int) -> int:
        kind, value = str(item[0]), item[1]
        if kind == "SUBPATTERN":
            return self._build(value[3], node)
        if kind == "BRANCH":
            after = self._node()
            for items in value[1]:
                begin = self._node()
                self.empty[node].append(begin)
                self.empty[self._build(items, begin)].append(after)
            return after
        if kind in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, items = value
            return self._repeat(least, most, items, node)
        if id(item) not in self._known:
            characters = _characters(kind, value)
            self._known[id(item)] = self.sets.setdefault(characters, len(self.sets))
        after = self._node()
        self.edges[node] = self._known[id(item)], after
        return after

    def _repeat(self, least: int, most: Any, items: Any, node: int) -> int:
        for _ in range(least):
            node = self._build(items, node)
        after = self._node()
        if str(most) == "MAXREPEAT":
            loop = self._node()
            self.empty[node].append(loop)
            self.empty[self._build(items, loop)].append(loop)
            self.empty[loop].append(after)
            return after
        for _ in range(int(most) - least):
            self.empty[node].append(after)
            begin = self._node()
            self.empty[node].append(begin)
            node = self._build(items, begin)
        self.empty[node].append(after)
        return after

    def closures(self, bit_of: dict[int, int]) -> list[States]:
        """What can be reached from each node without reading: bit_of its places, bit 0 the end.

        Nodes on one circle of empty edges share theirs (Tarjan's strongly connected components, which come out with
        those first that others lead to).
        """
        count = len(self.edges)
        masks, order, low = [0] * count, [0] * count, [0] * count
        is_out = [False] * count
        stack: list[int] = []
        clock = 0
        for root in range(count):
            if order[root]:
                continue
            clock += 1
            order[root] = low[root] = clock
            stack.append(root)
            path = [(root, iter(self.empty[root]))]
            while path:
                node, targets = path[-1]
                target = next(targets, None)
                if target is None:
                    path.pop()
                    if path:
                        low[path[-1][0]] = min(low[path[-1][0]], low[node])
                    if low[node] == order[node]:
                        begin = len(stack) - 1
                        while stack[begin] != node:
                            begin -= 1
                        circle = stack[begin:]
                        del stack[begin:]
                        mask = 0
                        for each in circle:
                            mask |= 1 if each == self.end else 0
                            mask |= 1 << bit_of[each] if each in bit_of else 0
                            for other in self.empty[each]:
                                mask |= masks[other]
                        for each in circle:
                            masks[each] = mask
                            is_out[each] = True
                elif not order[target]:
                    clock += 1
                    order[target] = low[target] = clock
                    stack.append(target)
                    path.append((target, iter(self.empty[target])))
                elif not is_out[target]:
                    low[node] = min(low[node], order[target])
        return masks

    def ways(self, written: Sequence[str | None]) -> dict[int, tuple[int, str, int]]:
        """The shortest way from each node to the end: (characters, the next one or "", the next node)."""
        before: list[list[tuple[str, int]]] = [[] for _ in self.edges]
        for node, edge in enumerate(self.edges):
            for target in self.empty[node]:
                before[target].append(("", node))
            if edge is not None and (character := written[edge[0]]) is not None:
                before[edge[1]].append((character, node))
        ways = {self.end: (0, "", self.end)}
        waiting = deque([self.end])
        while waiting:
            target = waiting.popleft()
            length = ways[target][0]
            for character, node in before[target]:
                if node not in ways or ways[node][0] > length + len(character):
                    ways[node] = (length + len(character), character, target)
                    (waiting.append if character else waiting.appendleft)(node)
        return ways

    def place_after(self, node: int, ways: dict[int, tuple[int, str, int]]) -> int:
        """Where the shortest way from a node reads its next character; the end, or a node without a way."""
        walked = []
        while node not in self._places and node in ways and node != self.end and not ways[node][1]:
            walked.append(node)
            node = ways[node][2]
        place = self._places.get(node, node)
        self._places.update((each, place) for each in walked)
        return place


def _size(items: Iterable[tuple[Any, Any]], depth: int = 0) -> int:
    """Steps of the items when written out: at least as many as building them takes. Refuses what is not regular."""
    if depth > MAX_DEPTH:
        raise InvalidRequestError(
            f"regex: expected at most {MAX_DEPTH} groups and repetitions within each other, got more", param="regex"
        )
    size = 0
    for item in items:
        kind, value = str(item[0]), item[1]
        if kind in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            size += 1
        elif kind == "SUBPATTERN":
            if value[1] or value[2]:
                raise _unsupported("flags")
            size += _size(value[3], depth + 1)
        elif kind == "BRANCH":
            size += 1 + sum(1 + _size(branch, depth + 1) for branch in value[1])
        elif kind in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, inner = value
            turns = int(least) + 1 if str(most) == "MAXREPEAT" else int(most)
            size += 1 + turns * (1 + _size(inner, depth + 1))
        else:
            raise _unsupported(_UNSUPPORTED.get(kind, kind.lower().replace("_", " ")))
    return size


def parse_regex(regex: str) -> Iterable[tuple[Any, Any]]:
    """The expression as the standard library reads it."""
    if not isinstance(regex, str) or not 1 <= len(regex) <= MAX_REGEX_CHARS:
        raise InvalidRequestError(
            f"regex: expected an expression of 1 to {MAX_REGEX_CHARS} characters, got {excerpt_of(regex, 40)}",
            param="regex",
        )
    try:
        parsed = import_module("re._parser").parse(regex)
    except (re.error, RecursionError, OverflowError, Warning) as error:
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
    if (size := sum(map(len, choice)) + len(choice)) > MAX_REGEX_CHARS + 1:
        raise InvalidRequestError(
            f"choice: expected at most {MAX_REGEX_CHARS} characters in all, got {size - 1}", param="choice"
        )
    return "|".join(re.escape(text) for text in choice)
