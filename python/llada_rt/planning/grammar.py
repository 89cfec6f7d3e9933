"""Grammar: what a text may be, as an automaton over characters, made from a regular expression or a list of texts.

The automaton is nondeterministic and stays so. Its size is that of the expression, while a deterministic automaton may
double with each character of the expression. A state of reading is a set of places, as the bits of an integer.

A stranger may write the expression. So reading is paid for out of an allowance, which each question renews: no question
takes longer than its allowance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestTooLargeError
from .characters import Characters, CharacterTable
from .expression import MAX_REGEX_CHARS, Graph, States, parse_regex

MAX_WORK = 1_000_000  # an allowance: places read from, characters written; some 0.2 s
_MAX_KEPT = 4096  # answers kept; beyond that they are found anew


class Grammar:
    """`pick`: a character of a set that can be written with few tokens, None if none can."""

    def __init__(self, regex: str, pick: Callable[[Characters], str | None]) -> None:
        graph = Graph(parse_regex(regex))
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
        # What follows when the character of a bit has been read, as (bits, shifted by).
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
            states = self.after(states, self._class(character))
            if not states:
                break
        return states

    def after(self, states: States, of_class: int) -> States:
        """The states after a character of the class."""
        key = states, of_class
        after = self._read.get(key)
        if after is None:
            if len(self._read) >= _MAX_KEPT:
                self._read.clear()
            after = self._read[key] = self._after_all(states & self._readers[of_class])
        return after

    def classes(self, table: CharacterTable) -> NDArray[np.int64]:
        """(num_characters,): the class of each character of the table. Those of a class are read alike."""
        if self._of_table is None or self._of_table[0] is not table:
            self._of_table = table, self._classes_of(table)
        return self._of_table[1]

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
