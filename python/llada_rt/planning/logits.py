"""Logits for decisions in Python: those of some positions of a step, after guidance, a few rows at a time.

All rows at once would take 8 bytes x vocabulary each, several times over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .plan import QuerySpan, SamplingRule

PIECE_LOGITS = 1 << 18  # at once, or those of a single row
MOST_ARRAYS = 8  # of so many float64 each that a user of pieces has at once


def num_rows_in_piece(vocab_size: int) -> int:
    return max(1, PIECE_LOGITS // vocab_size)


def piece_bytes(vocab_size: int) -> int:
    """What a user of pieces takes at most."""
    return MOST_ARRAYS * 8 * max(vocab_size, PIECE_LOGITS)


class HiddenRows(Protocol):
    """What the head makes logits of."""

    def __len__(self) -> int: ...
    def logits(self, begin: int, end: int) -> NDArray[np.float32]: ...


class Steps(Protocol):
    """What is asked of the runner."""

    def hidden(self, slot: int, spans: Sequence[QuerySpan], positions: Sequence[int]) -> HiddenRows: ...


class GuidedRows:
    """Recomputes the spans of a slot, and of the guide's if there is one (-1: none), as a step would; then gives logits
    at ascending positions within them, as often as asked.
    """

    def __init__(
        self,
        steps: Steps,
        rule: SamplingRule,
        slots: tuple[int, int],
        spans: Sequence[QuerySpan],
        positions: Sequence[int],
    ) -> None:
        slot, guide = slots
        self._scale = rule.guidance_scale
        self._hidden = steps.hidden(slot, spans, positions)
        self._guide = steps.hidden(guide, spans, positions) if guide >= 0 else None

    def __len__(self) -> int:
        return len(self._hidden)

    def logits(self, begin: int, end: int) -> NDArray[np.float64]:
        """Logits of the positions with these indices: (end - begin, vocabulary)."""
        logits = self._hidden.logits(begin, end).astype(np.float64)
        if self._guide is not None:
            unconditional = self._guide.logits(begin, end).astype(np.float64)
            logits -= unconditional
            logits *= self._scale + 1
            logits += unconditional
        return logits


def pieces(rows: HiddenRows | GuidedRows, vocab_size: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of as many rows as may be held at once, one after the other."""
    step = num_rows_in_piece(vocab_size)
    for begin in range(0, len(rows), step):
        yield begin, min(begin + step, len(rows))
