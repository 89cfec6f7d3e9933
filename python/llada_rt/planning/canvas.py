"""Canvas: the token array of one request, its blocks, its holes, and what is still masked.

A generation is a prompt followed by masks, an infill any template with holes; from here on both are the same thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import InvalidRequestError
from .plan import Commit, QuerySpan, Span
from .visibility import FULL, Visibility


class Canvas:
    """Tokens with masks in `span`, cut into blocks that are decoded from left to right, or in an order that is chosen.

    `span` holds the positions to be decoded: the response of a generation, first to last hole of an infill. Its
    last block may be short. A block without masks is passed over. `alone`: stretches that are a block each.

    With a `window` the canvas streams: beside what is done and the active block it holds so many masks that follow the
    block, and the last mask of all, at its own position (DPad: Chen et al. 2025; Streaming-dLLM: Xiao et al. 2026). The
    masks in between are neither computed nor seen, so that memory and time follow what is written. The canvas grows
    with the next block.

    Under block-causal attention (`visibility`) the blocks are those of the attention: the first one begins with the
    given text that shares it with the first position of the span.
    """

    __slots__ = (
        "_block",
        "_num_masked",
        "block_length",
        "block_start_masked",
        "blocks",
        "last_position",
        "mask_id",
        "span",
        "tokens",
        "visibility",
        "window",
    )

    is_sliding = False  # the active block moves with every step

    def __init__(
        self,
        tokens: Sequence[int],
        *,
        mask_id: int,
        span: Span,
        block_length: int | None = None,
        alone: Sequence[Span] = (),
        visibility: Visibility = FULL,
        window: int | None = None,
    ) -> None:
        """`window`: the masks behind the last of `tokens`, up to the end of the span, are not among them yet."""
        if not 0 <= span.start < span.stop or (window is None and span.stop > len(tokens)):
            raise InvalidRequestError(f"nothing to decode: expected positions within [0, {len(tokens)}), got {span}")
        self.tokens: list[int] = list(tokens)  # (length,)
        self.mask_id = mask_id
        self.span = span
        if block_length is not None and visibility.block_length not in (None, block_length):
            raise InvalidRequestError(
                f"block_length: expected {visibility.block_length}, that of the model's attention, got {block_length}",
                param="block_length",
            )
        self.visibility = visibility
        self.block_length = visibility.block_length or min(block_length or len(span), len(span))
        self.blocks = _blocks(visibility, span, self.block_length, alone)
        self.window = window
        self.last_position: int | None = None  # of the last token, where the canvas leaves positions out before it
        self._block = -1
        self._num_masked = 0
        self.block_start_masked = 0  # masks in the block when it began
        self.next_block()

    @classmethod
    def for_generation(
        cls,
        prompt: Sequence[int],
        gen_length: int,
        *,
        mask_id: int,
        block_length: int | None = None,
        pinned: Mapping[int, int] | None = None,
        alone: Sequence[Span] = (),
        visibility: Visibility = FULL,
        window: int | None = None,
    ) -> Canvas:
        """`pinned`: tokens of the response that are given, by their position in it; none beside a window."""
        assert not (pinned and window)
        length = gen_length if window is None else 0
        tokens = [*prompt, *((pinned or {}).get(index, mask_id) for index in range(length))]
        return cls(
            tokens,
            mask_id=mask_id,
            span=Span(len(prompt), len(prompt) + gen_length),
            block_length=block_length,
            alone=alone,
            visibility=visibility,
            window=window,
        )

    @classmethod
    def for_infill(
        cls,
        template: Sequence[int],
        *,
        mask_id: int,
        block_length: int | None = None,
        alone: Sequence[Span] = (),
        visibility: Visibility = FULL,
    ) -> Canvas:
        holes = [position for position, token in enumerate(template) if token == mask_id]
        if not holes:
            raise InvalidRequestError("infill: expected at least one hole, got none", param="segments")
        span = Span(holes[0], holes[-1] + 1)
        return cls(template, mask_id=mask_id, span=span, block_length=block_length, alone=alone, visibility=visibility)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def block_index(self) -> int:
        """Index of the active block; the number of blocks when the canvas is complete."""
        return self._block

    @property
    def block(self) -> Span:
        """The active block."""
        return self.blocks[self._block]

    @property
    def is_complete(self) -> bool:
        return self._block == len(self.blocks)

    @property
    def num_masked(self) -> int:
        """Masks left in the active block."""
        return self._num_masked

    def visible(self, span: Span) -> Span:
        """What the positions of the span see. Positions behind do not matter to them."""
        return self.visibility.visible(span, len(self.tokens))

    def query(self, span: Span) -> tuple[QuerySpan, ...]:
        """The positions of the span, as far as there are such, to be recomputed: each with what it sees."""
        return self.visibility.query(span, len(self.tokens))

    def masks_in(self, span: Span) -> int:
        return self.tokens[span.start : span.stop].count(self.mask_id)

    def commit(self, commits: Sequence[Commit]) -> None:
        """Write committed tokens; each must fill a mask or, as an edit, replace the token that it says."""
        for commit in commits:
            expected, found = commit.replaced, self.tokens[commit.position]
            assert found == (self.mask_id if expected is None else expected), f"{commit.position} holds {found}"
            assert commit.token != self.mask_id
            self.tokens[commit.position] = commit.token
        self._num_masked = 0 if self.is_complete else self.masks_in(self.block)

    def next_block(self) -> None:
        """Go on to the next block that holds masks, or become complete."""
        self._block += 1
        self._grow()
        while self._block < len(self.blocks) and not self.masks_in(self.blocks[self._block]):
            self._block += 1
            self._grow()
        self._num_masked = self.block_start_masked = 0 if self.is_complete else self.masks_in(self.block)

    def end_block_at(self, stop: int) -> None:
        """Let the active block end there; what follows is cut anew. Blocks are in the order of their positions."""
        rest = self.visibility.cut(Span(stop, self.span.stop), self.block_length)
        self.blocks = (*self.blocks[: self._block], Span(self.block.start, stop), *rest)
        self._num_masked = self.block_start_masked = self.masks_in(self.block)

    @property
    def shown(self) -> list[int]:
        """The tokens that stand at their index: all but a last one that is further on."""
        return self.tokens if self.last_position is None else self.tokens[:-1]

    def _grow(self) -> None:
        """Bring in the masks that the active block sees behind itself."""
        if self.window is None or self.is_complete:
            return
        shown, stop = self.shown, min(self.block.stop + self.window, self.span.stop)
        is_whole = stop + 1 >= self.span.stop
        masks = (self.span.stop if is_whole else stop + 1) - len(shown)
        self.tokens = [*shown, *[self.mask_id] * masks]
        self.last_position = None if is_whole else self.span.stop - 1

    def refreshed(self) -> None:
        """A step has computed all that the block sees."""

    def num_open_blocks(self) -> int:
        """Blocks that hold masks, the active one and those after it."""
        return sum(self.masks_in(block) > 0 for block in self.blocks[self._block :])

    def go_on_with(self, position: int) -> None:
        """Make the block that holds `position` the active one, unless it is past; the others keep their order."""
        index = next(i for i, block in enumerate(self.blocks) if block.start <= position < block.stop)
        if index < self._block:  # a mask that the published loop left over
            return
        done, waiting = self.blocks[: self._block], [*self.blocks[self._block :]]
        chosen = waiting.pop(index - self._block)
        self.blocks = (*done, chosen, *waiting)
        self._num_masked = self.block_start_masked = self.masks_in(self.block)
        if not self._num_masked:
            self.next_block()

    def first_settled(self, tokens: frozenset[int], begin: int = 0) -> int | None:
        """First position of the span, from `begin` on, that holds one of `tokens`, if no mask comes before it."""
        for position in range(self.span.start, min(self.span.stop, len(self.tokens))):
            token = self.tokens[position]
            if token == self.mask_id:
                return None
            if token in tokens and position >= begin:
                return position
        return None

    def finish(self, fill: int) -> None:
        """Complete the canvas now: what is still masked in the span becomes `fill`, as far as the canvas has grown."""
        self.tokens, self.last_position = self.shown, None
        for position in range(self.span.start, min(self.span.stop, len(self.tokens))):
            if self.tokens[position] == self.mask_id:
                self.tokens[position] = fill
        self._block = len(self.blocks)
        self._num_masked = 0


def _blocks(visibility: Visibility, span: Span, block_length: int, alone: Sequence[Span]) -> tuple[Span, ...]:
    """The span in pieces of block_length; a stretch that is to be alone ends the piece before it."""
    blocks, start = [], visibility.widened(span).start
    for stretch in (*sorted(alone, key=lambda each: each.start), Span(span.stop, span.stop)):
        blocks += visibility.cut(Span(start, stretch.start), block_length)
        blocks += [stretch] if len(stretch) else []
        start = stretch.stop
    return tuple(blocks)
