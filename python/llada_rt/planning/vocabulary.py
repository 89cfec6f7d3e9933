"""Vocabulary: the tokens of a model as pieces of text, and those of them that a grammar can read.

The pieces stand in a tree by their beginnings, so that a grammar reads each beginning once and drops what does not
begin as the grammar wants.
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
_MAX_FLAGS = 1 << 22  # kinds of steps that are told apart by a flag each, else by sorting


class Encode(Protocol):
    def __call__(self, text: str) -> list[int]: ...


class Decode(Protocol):
    def __call__(self, ids: Sequence[int]) -> str: ...


class Level(NamedTuple):
    """The nodes of the tree that are reached by so many characters, and the tokens that end there."""

    parents: NDArray[np.int32]  # (nodes,): index in the level above
    characters: NDArray[np.int32]  # (nodes,): index into the table of characters
    tokens: NDArray[np.int32]  # (ends,)
    nodes: NDArray[np.int32]  # (ends,): index in this level


class Readable(NamedTuple):
    """The tokens that a grammar can read, and where each of them leads."""

    tokens: NDArray[np.int32]  # (n,)
    targets: NDArray[np.int32]  # (n,): index into states
    states: list[States]


class Alphabet:
    """The tokens of a model as pieces of text. Those that are special, or no whole characters, are not among them."""

    def __init__(self, texts: Sequence[str], encode: Encode, decode: Decode) -> None:
        self.texts = texts
        self.encode = encode
        self.decode = decode
        self.characters = CharacterTable(dict.fromkeys("".join(texts)))
        self._levels = _levels(texts, self.characters)
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

    def readable(self, grammar: Grammar, states: States) -> Readable:
        """The tokens that the grammar can read in these states. Raises RequestTooLargeError by its allowance."""
        class_of = grammar.classes(self.characters)
        num_classes = 1 + max(class_of.tolist(), default=-1)
        found, index = [states], {states: 0}
        tokens, targets = [], []
        at = np.zeros(1, dtype=np.int32)  # of each node of a level the index of its states, -1: none
        for level in self._levels:
            above = at[level.parents]
            alive = np.flatnonzero(above >= 0)
            if not len(alive):
                break
            kinds, kind_of = _kinds(
                above[alive] * num_classes + class_of[level.characters[alive]], len(found) * num_classes
            )
            after = np.full(len(kinds), -1, dtype=np.int32)
            for number, kind in enumerate(kinds.tolist()):
                reached = grammar.after(found[kind // num_classes], kind % num_classes)
                if reached:
                    after[number] = index.setdefault(reached, len(index))
                    if after[number] == len(found):
                        found.append(reached)
            at = np.full(len(level.parents), -1, dtype=np.int32)
            at[alive] = after[kind_of]
            reached_by = at[level.nodes]
            is_read = reached_by >= 0
            tokens.append(level.tokens[is_read])
            targets.append(reached_by[is_read])
        empty = np.empty(0, dtype=np.int32)
        return Readable(np.concatenate([empty, *tokens]), np.concatenate([empty, *targets]), found)

    def _writes(self, character: str) -> bool:
        if character not in self._is_written:
            if len(self._is_written) >= _MAX_KEPT:
                self._is_written.clear()
            try:
                self._is_written[character] = self.decode(self.encode(character)) == character
            except (InvalidRequestError, TokenizerError):
                self._is_written[character] = False
        return self._is_written[character]


def _levels(texts: Sequence[str], table: CharacterTable) -> list[Level]:
    """The tree of the texts. Those of no character are left out."""
    number = {character: index for index, character in enumerate(table.characters)}
    flat = np.fromiter((number[character] for text in texts for character in text), dtype=np.int64)
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    begins = np.cumsum(lengths) - lengths
    tokens = np.flatnonzero(lengths > 0)
    nodes = np.zeros(len(tokens), dtype=np.int64)  # of each token the node it has come to
    levels = []
    for depth in range(max(map(len, texts), default=0)):
        beginnings, nodes = np.unique(nodes * len(table.characters) + flat[begins[tokens] + depth], return_inverse=True)
        ends = lengths[tokens] == depth + 1
        parents, characters = np.divmod(beginnings, max(1, len(table.characters)))
        levels.append(
            Level(
                parents.astype(np.int32),
                characters.astype(np.int32),
                tokens[ends].astype(np.int32),
                nodes[ends].astype(np.int32),
            )
        )
        tokens, nodes = tokens[~ends], nodes[~ends]
    return levels


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
