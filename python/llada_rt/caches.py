"""Cache policies: which positions are recomputed in the first step of a block, and which in the steps after it.

Every queried position writes its keys and values into the sequence's slot and attention reads the slot, so reuse
is nothing but leaving positions out. One class and one line per policy.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from .canvas import Canvas
from .plan import QuerySpan


class CachePolicy(Protocol):
    """What a policy answers. `exact` says whether the tokens are those of a full recomputation."""

    exact: ClassVar[bool]

    def first(self, canvas: Canvas) -> tuple[QuerySpan, ...]: ...

    def next(self, canvas: Canvas) -> tuple[QuerySpan, ...]: ...


def _whole(canvas: Canvas) -> tuple[QuerySpan, ...]:
    return (QuerySpan(0, len(canvas), len(canvas)),)


class NoCache:
    """Every step recomputes the whole canvas."""

    exact: ClassVar[bool] = True

    def first(self, canvas: Canvas) -> tuple[QuerySpan, ...]:
        return _whole(canvas)

    def next(self, canvas: Canvas) -> tuple[QuerySpan, ...]:
        return _whole(canvas)


class PrefixCache:
    """What lies before the block is kept from the block's first step (Fast-dLLM's prefix cache)."""

    exact: ClassVar[bool] = False

    def first(self, canvas: Canvas) -> tuple[QuerySpan, ...]:
        return _whole(canvas)

    def next(self, canvas: Canvas) -> tuple[QuerySpan, ...]:
        return (QuerySpan(canvas.block.start, len(canvas), len(canvas)),)


class DualCache:
    """What lies before and after the block is kept from the block's first step (Fast-dLLM's dual cache)."""

    exact: ClassVar[bool] = False

    def first(self, canvas: Canvas) -> tuple[QuerySpan, ...]:
        return _whole(canvas)

    def next(self, canvas: Canvas) -> tuple[QuerySpan, ...]:
        return (QuerySpan(canvas.block.start, canvas.block.stop, len(canvas)),)


CACHES: dict[str, type[CachePolicy]] = {
    "none": NoCache,
    "prefix": PrefixCache,
    "dual": DualCache,
}
