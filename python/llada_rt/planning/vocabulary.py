"""Vocabulary: the tokens of a model as pieces of text, and which of them a grammar can read.

The pieces stand in a tree by their beginnings, so that a grammar reads each beginning once, for all tokens that have
it. The tree shrinks further for one grammar: characters that it reads alike are one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidRequestError, TokenizerError
from .characters import Characters, CharacterTable
from .expression import States
from .grammar import Grammar

_MAX_KEPT = 4096  # answers kept
_MAX_PICKED = 64  # characters of a set that are tried
_MOST_CLASSES = 16  # of characters, up to which tokens that look alike are sought: beyond, there are few
_MAX_FLAGS = 1 << 22  # kinds of steps that are told apart by a flag each, else by sorting


class Encode(Protocol):
    def __call__(self, text: str) -> list[int]: ...


class Decode(Protocol):
    def __call__(self, ids: Sequence[int]) -> str: ...


class Level(NamedTuple):
    """The beginnings of so many characters."""

    parents: NDArray[np.int32]  # (nodes,): index in the level above
    marks: NDArray[np.int32]  # (nodes,): the character that each ends with, as an index into a table, or its class


class Readable(NamedTuple):
    """What a grammar comes to by each beginning of a `ClassTree`."""

    reached: NDArray[np.int32]  # (nodes + 1,): index into states, -1: the grammar does not read it
    states: list[States]


class ClassTree:
    """The tokens by what one grammar sees of them: the classes of their characters. Tokens that look alike share a
    node, so the tree is small where the grammar tells few characters apart.
    """

    def __init__(self, levels: list[Level], node_of: NDArray[np.int32], num_classes: int) -> None:
        self._levels = levels
        self._num_classes = num_classes
        self._num_nodes = sum(len(level.parents) for level in levels)
        self.node_of = node_of  # (tokens,), the nodes counted through all levels from 1; 0: a token without text

    def read(self, grammar: Grammar, states: States) -> Readable:
        """How the grammar goes on from these states. Raises RequestTooLargeError by its allowance."""
        found, index = [states], {states: 0}
        reached = np.full(1 + self._num_nodes, -1, dtype=np.int32)
        above, begin = np.zeros(1, dtype=np.int32), 1
        for level in self._levels:
            before = above[level.parents]
            alive = np.flatnonzero(before >= 0)
            if not len(alive):
                break
            keys = before[alive].astype(np.int64) * self._num_classes + level.marks[alive]
            kinds, kind_of = _kinds(keys, len(found) * self._num_classes)
            after = np.full(len(kinds), -1, dtype=np.int32)
            for number, kind in enumerate(kinds.tolist()):
                next_states = grammar.after(found[kind // self._num_classes], kind % self._num_classes)
                if next_states:
                    after[number] = index.setdefault(next_states, len(found))
                    if after[number] == len(found):
                        found.append(next_states)
            above = reached[begin : begin + len(level.parents)]
            above[alive] = after[kind_of]
            begin += len(level.parents)
        return Readable(reached, found)


class Alphabet:
    """The tokens of a model as pieces of text. Those that are special, or no whole characters, are not among them."""

    def __init__(self, texts: Sequence[str], encode: Encode, decode: Decode) -> None:
        self.texts = texts
        self.encode = encode
        self.decode = decode
        self.characters = CharacterTable(dict.fromkeys("".join(texts)))
        self._levels, self._ends = _levels(texts, self.characters)
        self._alone = CharacterTable(text for text in dict.fromkeys(texts) if len(text) == 1)
        self._is_written: dict[str, bool] = {}  # of characters that are no token

    def pick(self, characters: Characters) -> str | None:
        """A character of the set, one that is a token if there is such."""
        inside = self._alone.among(characters)
        if inside.any():
            return self._alone.characters[int(np.argmax(inside))]
        if characters.is_negated:
            return None
        some = (chr(code) for low, high in characters.ranges for code in range(low, min(high, low + 16) + 1))
        return next((character for character in islice(some, _MAX_PICKED) if self._writes(character)), None)

    def tree(self, grammar: Grammar) -> ClassTree:
        """The tokens as the grammar sees them."""
        class_of = grammar.classes(self.characters)
        num_classes = 1 + max(class_of.tolist(), default=-1)
        levels, node_of = [], np.zeros(len(self.texts), dtype=np.int32)
        merged, num_above, begin = np.zeros(1, dtype=np.int64), 1, 1
        for level, (tokens, nodes) in zip(self._levels, self._ends, strict=True):
            classes = class_of[level.marks]
            if num_classes <= _MOST_CLASSES:
                kinds, merged = _kinds(merged[level.parents] * num_classes + classes, num_above * num_classes)
                num_above = len(kinds)
                parents, classes = np.divmod(kinds, num_classes)
                levels.append(Level(parents.astype(np.int32), classes.astype(np.int32)))
                node_of[tokens] = begin + merged[nodes]
            else:
                levels.append(Level(level.parents, classes.astype(np.int32)))
                node_of[tokens] = begin + nodes
            begin += len(levels[-1].parents)
        return ClassTree(levels, node_of, num_classes)

    def _writes(self, character: str) -> bool:
        if character not in self._is_written:
            if len(self._is_written) >= _MAX_KEPT:
                self._is_written.clear()
            try:
                self._is_written[character] = self.decode(self.encode(character)) == character
            except (InvalidRequestError, TokenizerError):
                self._is_written[character] = False
        return self._is_written[character]


def _levels(
    texts: Sequence[str], table: CharacterTable
) -> tuple[list[Level], list[tuple[NDArray[np.int64], NDArray[np.int64]]]]:
    """The tree of the texts' beginnings, and of each level the texts that end there with their nodes."""
    number = {character: index for index, character in enumerate(table.characters)}
    flat = np.fromiter((number[character] for text in texts for character in text), dtype=np.int64)
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    begins = np.cumsum(lengths) - lengths
    tokens = np.flatnonzero(lengths > 0)
    nodes = np.zeros(len(tokens), dtype=np.int64)  # of each token the node it has come to
    levels, all_ends = [], []
    for depth in range(max(map(len, texts), default=0)):
        keys = nodes * len(table.characters) + flat[begins[tokens] + depth]
        beginnings, nodes = np.unique(keys, return_inverse=True)
        parents, characters = np.divmod(beginnings, len(table.characters))
        levels.append(Level(parents.astype(np.int32), characters.astype(np.int32)))
        ends = lengths[tokens] == depth + 1
        all_ends.append((tokens[ends], nodes[ends]))
        tokens, nodes = tokens[~ends], nodes[~ends]
    return levels, all_ends


def _kinds(keys: NDArray[np.int64], bound: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """np.unique(keys, return_inverse=True) of keys in [0, bound), without sorting where there are few."""
    if bound > _MAX_FLAGS:
        kinds, kind_of = np.unique(keys, return_inverse=True)
        return kinds, kind_of
    number = np.zeros(bound, dtype=np.int64)
    number[keys] = 1
    kinds = np.flatnonzero(number)
    number[kinds] = np.arange(len(kinds))
    return kinds, number[keys]
