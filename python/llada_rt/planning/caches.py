"""Cache policies: which positions a step recomputes.

Every queried position writes its keys and values into the sequence's slot, and attention reads the slot. So to reuse a
position's keys and values is to leave the position out of the query. A policy is one class and one line.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Protocol

from .canvas import Canvas
from .plan import QuerySpan, Span
from .sliding import SlidingCanvas


class CachePolicy(Protocol):
    """What a policy answers. `exact` says whether the tokens are those of a full recomputation.

    `compact`: after the block's first step, of the positions asked for only the candidates of the step before are
    recomputed: what is still masked, and what that step committed, for its final keys and values.
    """

    exact: ClassVar[bool]
    compact: ClassVar[bool] = False

    @abstractmethod
    def query(self, canvas: Canvas, step: int, step_in_block: int) -> tuple[QuerySpan, ...]:
        """Positions to recompute in a step of the active block; both counts begin with 0, `step` with the request."""


def _union(canvas: Canvas, *parts: Span) -> tuple[QuerySpan, ...]:
    """Ascending spans that do not touch, unless they see differently."""
    spans: list[Span] = []
    for part in sorted((part for part in parts if len(part)), key=lambda part: part.start):
        if spans and part.start <= spans[-1].stop:
            part = Span(spans[-1].start, max(spans.pop().stop, part.stop))
        spans.append(part)
    return tuple(query for span in spans for query in canvas.query(span))


def _seen(canvas: Canvas) -> Span:
    """What the block sees: more of the canvas than this plays no part in its steps."""
    return canvas.visible(canvas.block)


def _whole(canvas: Canvas) -> tuple[QuerySpan, ...]:
    return canvas.query(_seen(canvas))


class NoCache(CachePolicy):
    """Every step recomputes the whole canvas, or what of it the block sees."""

    exact: ClassVar[bool] = True

    def query(self, canvas: Canvas, step: int, step_in_block: int) -> tuple[QuerySpan, ...]:
        return _whole(canvas)


class PrefixCache(CachePolicy):
    """What lies before the block is kept from the block's first step (Fast-dLLM's prefix cache)."""

    exact: ClassVar[bool] = False

    def query(self, canvas: Canvas, step: int, step_in_block: int) -> tuple[QuerySpan, ...]:
        return canvas.query(Span(canvas.block.start, _seen(canvas).stop)) if step_in_block else _whole(canvas)


class DualCache(CachePolicy):
    """What lies before and after the block is kept from the block's first step (Fast-dLLM's dual cache)."""

    exact: ClassVar[bool] = False

    def query(self, canvas: Canvas, step: int, step_in_block: int) -> tuple[QuerySpan, ...]:
        return canvas.query(canvas.block) if step_in_block else _whole(canvas)


class DualCompactCache(DualCache):
    """The dual cache, and of the block what has been committed is recomputed once more and then kept (the idea of
    dKV-Cache: Ma et al. 2025, horseee/dKV-Cache).
    """

    exact: ClassVar[bool] = False
    compact: ClassVar[bool] = True


class VicinityCache(CachePolicy):
    """The dual cache with a window around the block that is recomputed too (dInfer's vicinity refresh).

    Sizes as dInfer recommends them (inclusionAI/dInfer). The first steps of a request recompute everything.
    """

    exact: ClassVar[bool] = False
    before: ClassVar[int] = 16
    after: ClassVar[int] = 16
    warmup: ClassVar[int] = 4

    def query(self, canvas: Canvas, step: int, step_in_block: int) -> tuple[QuerySpan, ...]:
        if step < self.warmup or step_in_block == 0:
            return _whole(canvas)
        stop = min(canvas.block.stop + self.after, _seen(canvas).stop)
        return canvas.query(Span(canvas.block.start - self.before, stop))


class IntervalCache(CachePolicy):
    """Given text is recomputed every `given_steps` steps of the request, the response every `response_steps`, the
    active block always.

    The intervals of dLLM-Cache (Liu et al. 2025, maomaocun/dLLM-Cache: LLaDA-8B-Instruct on GSM8K), without its
    adaptive updates in between.
    """

    exact: ClassVar[bool] = False
    given_steps: ClassVar[int] = 50
    response_steps: ClassVar[int] = 7

    def query(self, canvas: Canvas, step: int, step_in_block: int) -> tuple[QuerySpan, ...]:
        seen = _seen(canvas)
        response = Span(canvas.span.start, min(canvas.span.stop, seen.stop))
        parts = [canvas.block]
        if step % self.given_steps == 0:
            parts += [Span(0, response.start), Span(response.stop, seen.stop)]
        if step % self.response_steps == 0:
            parts.append(response)
        return _union(canvas, *parts)


class SlidingCache(CachePolicy):
    """For a block that slides: the block is recomputed, and before it the last 24 positions or, if those are more, what
    it has passed since the step before. Everything is, at first and after as many commits as the block is long (the
    DSB cache: Luo et al. 2026, lizhuo-luo/DSB).
    """

    exact: ClassVar[bool] = False
    before: ClassVar[int] = 24

    def query(self, canvas: Canvas, step: int, step_in_block: int) -> tuple[QuerySpan, ...]:
        assert isinstance(canvas, SlidingCanvas)
        if step == 0 or canvas.num_since_refresh >= canvas.block_length:
            return _whole(canvas)
        block = canvas.block
        return canvas.query(Span(min(block.start - self.before, canvas.last_start), block.stop))


FIXED_BLOCK_CACHES: dict[str, type[CachePolicy]] = {
    "none": NoCache,
    "prefix": PrefixCache,
    "dual": DualCache,
    "dual_compact": DualCompactCache,
    "vicinity": VicinityCache,
    "interval": IntervalCache,
}
CACHES: dict[str, type[CachePolicy]] = {**FIXED_BLOCK_CACHES, "dsb": SlidingCache}
