"""Grammar: what a text may be, as an automaton over characters. Made from a regular expression or a list of texts.

The automaton is nondeterministic and stays so: it is as large as the expression, while a deterministic one may double
with each character of it. A state of reading is a set of its places, as the bits of an integer. Expressions are
Python's, matched in full, without what is not regular or not about characters: anchors, look-around, back-references,
flags.

A stranger may write the expression. So its size is counted before anything is built, and reading is paid for out of an
allowance, which whoever asks renews: no question takes longer than that.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InvalidRequestError, RequestTooLargeError

MAX_STEPS = 20_000  # of an expression when its repetitions are written out
MAX_DEPTH = 100  # groups and repetitions within each other
MAX_REGEX_CHARS = 4096
MAX_WORK = 1_000_000  # an allowance: places read from, characters written; some 0.2 s
_MAX_KEPT = 4096  # answers kept; beyond that they are found anew
States = int  # bit 0: the text may end here; the others: a character may be read there, nearest to the end first

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


class CharacterTable:
    """Some characters, to be asked all at once which of them are in a set."""

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = list(characters)
        self._codes = np.array([ord(character) for character in self.characters], dtype=np.int64)
        self._categories: dict[str, NDArray[np.bool_]] = {}

    def among(self, characters: Characters) -> NDArray[np.bool_]:
        """(num_characters,): as `character in characters` of each."""
        inside = np.zeros(len(self._codes), dtype=np.bool_)
        for low, high in characters.ranges:
            inside |= (self._codes >= low) & (self._codes <= high)
        for name, negated in characters.categories:
            if name not in self._categories:
                self._categories[name] = np.array([_CATEGORIES[name](each) for each in self.characters], dtype=np.bool_)
            inside |= self._categories[name] != negated
        return ~inside if characters.is_negated else inside


class Grammar:
    """`pick`: a character of a set that can be written with few tokens, None if none can."""

    def __init__(self, regex: str, pick: Callable[[Characters], str | None]) -> None:
        graph = _Graph(_parse(regex))
        self._sets = list(graph.sets)  # of the expression, each once
        written = [pick(characters) for characters in self._sets]
        ways = graph.ways(written)
        far = len(graph.edges)
        places = []  # (characters to the end after this one, node, set, target)
        for node, edge in enumerate(graph.edges):
            if edge is not None:
                is_way = edge[1] in ways and written[edge[0]] is not None
                places.append((ways[edge[1]][0] if is_way else far, node, *edge))
        places.sort()
        bit_of = {node: bit for bit, (_, node, _, _) in enumerate(places, 1)}
        closures = graph.closures(bit_of)
        self._num_ways = sum(length < far for length, *_ in places)  # bits from which the text can be completed
        # Of each bit what follows when its character has been read, as (bits, shifted by).
        self._after: list[tuple[int, int]] = [(0, 0)]
        self._way: list[tuple[str, int]] = [("", 0)]  # the next character of the shortest way, the next bit
        self._number = [-1]  # the set that is read
        self._in_set = [0] * len(self._sets)  # the bits that read a character of the set
        for bit, (_, _, number, target) in enumerate(places, 1):
            closure = closures[target]
            shift = max((closure & -closure).bit_length() - 1, 0)
            self._after.append((closure >> shift, shift))
            self._in_set[number] |= 1 << bit
            self._number.append(number)
            self._way.append((written[number] or "", bit_of.get(graph.place_after(target, ways), 0)))
        self.start: States = closures[graph.start]
        self._class_of: dict[str, int] = {}  # of a character, by which sets it is in
        self._readers: list[States] = []  # the bits that read a character of the class
        self._classes: dict[States, int] = {}  # by readers
        self._of_table: tuple[CharacterTable, NDArray[np.int64]] | None = None
        self._read: dict[tuple[States, int], States] = {}
        self.allow()

    def allow(self, work: int = MAX_WORK) -> None:
        """Renew the allowance. What needs more raises RequestTooLargeError."""
        self._allowed = self._left = work

    def spend(self, work: int) -> None:
        self._left -= work
        if self._left < 0:
            raise RequestTooLargeError(
                f"regex: what may come next cannot be told within {self._allowed} steps, and this takes "
                f"{self._allowed - self._left} or more",
                param="regex",
                hint="smaller repetition counts, fewer optional parts beside each other",
            )

    def accepts(self, states: States) -> bool:
        return bool(states & 1)

    def can_go_on(self, states: States) -> bool:
        """Whether any character may follow."""
        return states > 1

    def read(self, states: States, text: str) -> States:
        """The states after some more text; empty: it does not fit."""
        for character in text:
            key = states, self._class(character)
            after = self._read.get(key)
            if after is None:
                if len(self._read) >= _MAX_KEPT:
                    self._read.clear()
                after = self._read[key] = self._after_all(states & self._readers[key[1]])
            states = after
            if not states:
                break
        return states

    def readable(self, states: States, table: CharacterTable) -> NDArray[np.bool_]:
        """(num_characters,): which characters of the table may come next."""
        if self._of_table is None or self._of_table[0] is not table:
            self._of_table = table, self._classes_of(table)
        may = np.array([bool(states & readers) for readers in self._readers], dtype=np.bool_)
        return may[self._of_table[1]]

    def shortest(self, states: States) -> str | None:
        """The shortest text, in characters that can be written, that completes one begun; None: there is none."""
        bit = (states & -states).bit_length() - 1
        if bit < 0 or bit > self._num_ways:
            return None
        text: list[str] = []
        while bit:
            character, bit = self._way[bit]
            text.append(character)
        self.spend(len(text))
        return "".join(text)

    def forced(self, states: States) -> str:
        """The text that must come next, whatever is written."""
        text = ""
        while states > 1 and not self.accepts(states) and len(text) < MAX_REGEX_CHARS:
            self.spend(1)
            number = self._number[(states & -states).bit_length() - 1]
            only = self._sets[number].only if not states & ~self._in_set[number] else None
            if only is None:
                break
            text += only
            states = self.read(states, only)
        return text

    def _after_all(self, states: States) -> States:
        """What follows when each of the bits has read a character."""
        if not states:
            return 0
        digits = bin(states)
        self.spend(1 + digits.count("1"))
        after, last = 0, len(digits) - 1
        at = digits.find("1", 2)
        while at >= 0:
            bits, shift = self._after[last - at]
            after |= bits << shift
            at = digits.find("1", at + 1)
        return after

    # ---------------------------------------------------------------- classes of characters

    def _class(self, character: str) -> int:
        if character not in self._class_of:
            self.spend(sum(1 + len(characters.ranges) for characters in self._sets))
            readers = 0
            for number, characters in enumerate(self._sets):
                if character in characters:
                    readers |= self._in_set[number]
            self._class_of[character] = self._class_with(readers)
        return self._class_of[character]

    def _class_with(self, readers: States) -> int:
        if readers not in self._classes:
            self._classes[readers] = len(self._readers)
            self._readers.append(readers)
        return self._classes[readers]

    def _classes_of(self, table: CharacterTable) -> NDArray[np.int64]:
        """(num_characters,): the class of each."""
        # Some sets at a time: characters are told apart by their classes so far and by which of these they are in.
        classes = np.zeros(len(table.characters), dtype=np.int64)
        readers = [0]
        for begin in range(0, len(self._sets), 32):
            some = range(begin, min(begin + 32, len(self._sets)))
            classes <<= len(some)
            for number in some:
                classes |= table.among(self._sets[number]).astype(np.int64) << (number - begin)
            kinds, classes = np.unique(classes, return_inverse=True)
            before, readers = readers, []
            for kind in kinds.tolist():
                bits = before[kind >> len(some)]
                for number in some:
                    bits |= self._in_set[number] if kind >> (number - begin) & 1 else 0
                readers.append(bits)
        numbers = np.array([self._class_with(each) for each in readers], dtype=np.int64)
        self._class_of.update(zip(table.characters, numbers[classes].tolist(), strict=True))
        return numbers[classes]


class _Graph:
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
        """Of each node what can be reached from it without reading: bit_of its places, bit 0 the end.

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
        """Of each node the shortest way to the end: (characters, the next one or "", the next node)."""
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


def _parse(regex: str) -> Iterable[tuple[Any, Any]]:
    """The expression as the standard library reads it."""
    if not isinstance(regex, str) or not 1 <= len(regex) <= MAX_REGEX_CHARS:
        raise InvalidRequestError(
            f"regex: expected an expression of 1 to {MAX_REGEX_CHARS} characters, got {str(regex)[:40]!r}",
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
