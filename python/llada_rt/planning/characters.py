"""Sets of characters, as a regular expression names them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CATEGORIES: dict[str, Callable[[str], bool]] = {
    "CATEGORY_DIGIT": str.isdecimal,
    "CATEGORY_SPACE": str.isspace,
    "CATEGORY_WORD": lambda c: c.isalnum() or c == "_",
}


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
