"""Visibility: which positions of a canvas a position sees, by the attention of the model. Nothing else says so."""

from __future__ import annotations

from dataclasses import dataclass

from .plan import QuerySpan, Span


@dataclass(frozen=True, slots=True)
class Visibility:
    """Full attention or, with a `block_length`, block-causal attention: a position sees its own block and the blocks
    before. Those blocks are counted from position 0.
    """

    block_length: int | None = None

    def visible(self, span: Span, length: int) -> Span:
        """What the positions of a span see, all together, on a canvas of that length."""
        if self.block_length is None:
            return Span(0, length)
        return Span(0, min(self._begin(span.stop + self.block_length - 1), length))

    def query(self, span: Span, length: int) -> tuple[QuerySpan, ...]:
        """The positions of a span that the canvas has, to be recomputed; a piece for each block of the attention."""
        start, stop = max(span.start, 0), min(span.stop, length)
        if self.block_length is None:
            return (QuerySpan(start, stop, length),) if start < stop else ()
        pieces = []
        while start < stop:
            visible = self.visible(Span(start, start + 1), length).stop
            pieces.append(QuerySpan(start, min(stop, visible), visible))
            start = visible
        return tuple(pieces)

    def cut(self, span: Span, block_length: int) -> list[Span]:
        """The span in blocks to be decoded. They are counted from its start, or as the attention counts them."""
        first = span.start if self.block_length is None else self._begin(span.start)
        starts = [span.start, *range(first + block_length, span.stop, block_length)]
        return [Span(start, stop) for start, stop in zip(starts, [*starts[1:], span.stop], strict=True) if start < stop]

    def widened(self, span: Span) -> Span:
        """The span from the start of its first block on: in it stands given text that sees what is decoded."""
        return span if self.block_length is None else Span(self._begin(span.start), span.stop)

    def _begin(self, position: int) -> int:
        assert self.block_length is not None
        return position - position % self.block_length


FULL = Visibility()
