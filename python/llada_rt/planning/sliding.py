"""SlidingCanvas: a block that moves on with every token at its start (DSB, Dynamic Sliding Block: Luo et al. 2026)."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InvalidRequestError
from .canvas import Canvas
from .plan import Commit, Span
from .visibility import FULL, Visibility


class SlidingCanvas(Canvas):
    """The active block begins with the first mask. It has `block_length` positions or, if it `is_greedy`, as many as
    hold that many masks: a position that waits then keeps no other from being looked at.
    """

    __slots__ = ("_active", "is_greedy", "last_start", "num_committed", "num_since_refresh")

    is_sliding = True

    def __init__(
        self,
        tokens: Sequence[int],
        *,
        mask_id: int,
        span: Span,
        block_length: int | None,
        is_greedy: bool,
        visibility: Visibility = FULL,
    ) -> None:
        if visibility.block_length is not None:
            raise InvalidRequestError(
                "block_order: expected blocks that stay where they are, as the attention of this model has them",
                param="block_order",
            )
        self.is_greedy = is_greedy
        self.num_committed = 0
        self.num_since_refresh = 0  # tokens committed since the last step that computed the whole canvas
        self.last_start = span.start  # of the block in the step before
        self._active = span
        super().__init__(tokens, mask_id=mask_id, span=span, visibility=visibility)
        self.block_length = min(block_length or len(span), len(span))
        self._move()

    @property
    def block(self) -> Span:
        return self._active

    @property
    def block_index(self) -> int:
        """Blocks' worth of tokens that have been committed."""
        return self.num_committed // self.block_length

    def refreshed(self) -> None:
        self.num_since_refresh = 0

    def commit(self, commits: Sequence[Commit]) -> None:
        super().commit(commits)
        self.num_committed += len(commits)
        self.num_since_refresh += len(commits)
        self.last_start = self._active.start
        self._move()

    def next_block(self) -> None:
        """The block has moved on already; without masks the canvas is complete."""
        if not self.masks_in(self.span):
            self._block = len(self.blocks)
        elif self._block < 0:
            self._block = 0
            self.block_start_masked = self.masks_in(self.span)

    def _move(self) -> None:
        """Find the block from what is masked now."""
        if self.masks_in(self.span):
            start = self.tokens.index(self.mask_id, self.span.start)
            stop = min(start + self.block_length, self.span.stop)
            if self.is_greedy:
                missing = self.block_length - self.masks_in(Span(start, stop))
                while missing and stop < self.span.stop:
                    missing -= self.tokens[stop] == self.mask_id
                    stop += 1
            self._active = Span(start, stop)
        self._num_masked = self.masks_in(self._active)
