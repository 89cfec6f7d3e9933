"""SequenceState: one request on its way through its canvas, block after block.

The state answers what its next steps are, as a SequencePlan, and takes over what the steps did.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import NamedTuple

from .audit import Audit
from .caches import CachePolicy
from .canvas import Canvas
from .constraint import FILL_STEP, Constraint
from .decoders import Decoder
from .plan import Alternative, Commit, QuerySpan, SamplingRule, SelectRule, SequencePlan, SequenceResult, Span


class Placed(NamedTuple):
    """How a position got its token: in which forward and block of the request, how sure and how likely."""

    token: int
    step: int
    block: int
    confidence: float
    log_prob: float
    alternatives: tuple[Alternative, ...]


@dataclass(frozen=True, slots=True)
class BorderRule:
    """AdaBlock: at its start a block looks `reach` positions ahead, and ends after the most confident candidate that is
    `token`, if one is at least so probable; else as it would.
    """

    token: int
    probability: float
    reach: int


@dataclass(eq=False, slots=True)
class SequenceState:
    """One request on its way: its canvas, its rules, and what has been spent on it."""

    request_id: str
    canvas: Canvas
    cache: CachePolicy
    decoder: Decoder
    sampling: SamplingRule
    commit_start: int | None = None  # None: the start of the active block
    end_tokens: frozenset[int] = frozenset()  # once settled, later blocks are not computed; empty: never
    end_from: int = 0  # before this position an end token ends nothing
    end_fill: int = -1  # what the positions not computed become
    by_confidence: bool = False  # the order of the blocks, see `is_choosing`
    border: BorderRule | None = None
    audit: Audit | None = None
    constraints: Mapping[int, Constraint] = field(default_factory=dict)  # by the start of their block
    max_forwards: int | None = None  # no call takes it beyond
    step_by_step: bool = False  # a call runs one step of it
    slot: int = -1
    guide_slot: int = -1
    num_forwards: int = 0
    num_refreshes: int = 0  # forwards that recomputed the whole canvas
    num_query_rows: int = 0  # positions recomputed, over all forwards
    steps_in_block: int = 0
    post_steps: int = 0  # of these, those that found no mask and could only edit
    has_chosen: bool = False  # the active block
    last_served: int = -1
    placed: dict[int, Placed] = field(default_factory=dict)  # by canvas position
    new_commits: tuple[Commit, ...] = ()  # of the last call
    last_committed: frozenset[int] = frozenset()  # positions, of the last step
    has_grown: bool = False  # the canvas, since the last step: what lies in the slot is not of its places

    @property
    def is_guided(self) -> bool:
        return self.sampling.guidance_scale > 0

    @property
    def is_seated(self) -> bool:
        return True

    @property
    def length(self) -> int:
        return len(self.canvas)

    @property
    def block_index(self) -> int:
        return self.canvas.block_index

    @property
    def is_finished(self) -> bool:
        return self.canvas.is_complete

    @property
    def is_spent(self) -> bool:
        """It has run as many forwards as it may."""
        return self.max_forwards is not None and self.num_forwards >= self.max_forwards

    @property
    def last_position(self) -> int | None:
        return self.canvas.last_position

    def slot_tokens(self) -> tuple[list[int], list[int] | None]:
        tokens = self.canvas.tokens
        if not self.is_guided:
            return tokens, None
        guide = [self.sampling.mask_id] * len(tokens)
        for position in self.placed:
            guide[position] = tokens[position]
        return tokens, guide

    def query(self, ahead: int) -> tuple[QuerySpan, ...]:
        """What the cache policy asks for `ahead` steps from now, if the block lasts so long."""
        return self.cache.query(self.canvas, self.num_forwards + ahead, self.steps_in_block + ahead)

    @property
    def constraint(self) -> Constraint | None:
        """That of the active block, which decides what its steps write."""
        return None if self.canvas.is_complete else self.constraints.get(self.canvas.block.start)

    @property
    def is_ready(self) -> bool:
        return self.constraint is None or self.constraint.is_ready

    @property
    def is_choosing(self) -> bool:
        """The next step commits one token, the surest of all blocks, and its block becomes the active one."""
        return self.by_confidence and not self.has_chosen and self.canvas.num_open_blocks() > 1

    @property
    def border_stop(self) -> int:
        """How far the next step looks for the end of its block, the first step; 0: not."""
        if self.border is None or self.steps_in_block or self.border.reach == 0:
            return 0
        return min(self.canvas.block.start + self.border.reach, self.canvas.span.stop)

    def first_query(self) -> tuple[QuerySpan, ...]:
        """What the next step recomputes."""
        if self.is_choosing:
            return self.canvas.query(self.canvas.visible(self.canvas.span))
        if self.has_grown:
            return self.canvas.query(self.canvas.visible(self.canvas.block))
        spans = self.query(0)
        return self._compacted(spans) if self.cache.compact and self.steps_in_block else spans

    def steps_alike(self, most: int) -> int:
        """For how many steps, at most `most`, a plan made now holds: those after the first ask the same."""
        is_single = self.step_by_step or self.is_choosing or self.canvas.is_sliding or self.border_stop > 0
        if is_single or self.constraint is not None:
            return 1
        if self.max_forwards is not None:
            most = min(most, self.max_forwards - self.num_forwards)
        post_steps = max(0, self._select().max_post_steps - self.post_steps)
        most = min(most, self.canvas.num_masked + post_steps)  # a block has no more steps left than masks, beside these
        if self.audit:
            most = self.audit.steps_alike(most, self.first_query(), self.canvas.visible(self.canvas.block))
        later = self.query(1)
        return next((ahead for ahead in range(2, most) if self.query(ahead) != later), most)

    def plan(self) -> SequencePlan:
        block = self.canvas.block
        commit_start = block.start if self.commit_start is None else self.commit_start
        select = self._select()
        editable = self._editable(select)
        if self.is_choosing:
            block = self.canvas.span
            commit_start, select, editable = block.start, SelectRule("top_k", num_masked=1, num_steps=1), ()
        plan = SequencePlan(
            slot=self.slot,
            guide_slot=self.guide_slot,
            first_query=self.first_query(),
            next_query=self.query(1),
            block=block,
            commit_start=commit_start,
            select=select,
            sampling=self.sampling,
            step=self.num_forwards,
            compact=self.cache.compact,
            editable=editable,
            post_steps=self.post_steps,
        )
        if self.border is not None and (stop := self.border_stop):
            plan = replace(
                plan, border_stop=stop, border_token=self.border.token, border_probability=self.border.probability
            )
        return plan if self.constraint is None else self.constraint.ask(plan)

    def _select(self) -> SelectRule:
        return self.decoder.select(self.canvas, self.steps_in_block)

    def _editable(self, select: SelectRule) -> tuple[Span, ...]:
        """Stretches of the block that may be edited: its masks and what steps have written, but no given text."""
        if select.edit_threshold == math.inf:
            return ()
        block, tokens, mask_id = self.canvas.block, self.canvas.tokens, self.canvas.mask_id

        def is_decoded(position: int) -> bool:
            return tokens[position] == mask_id or position in self.placed

        return tuple(_runs(range(block.start, block.stop), is_decoded))

    def _compacted(self, spans: tuple[QuerySpan, ...]) -> tuple[QuerySpan, ...]:
        """The last step's candidates within the spans, as the compiled loop finds them between steps of a call."""
        editable = {position for span in self._editable(self._select()) for position in range(span.start, span.stop)}

        def was_candidate(position: int) -> bool:
            is_masked = self.canvas.tokens[position] == self.canvas.mask_id
            return is_masked or position in self.last_committed or position in editable

        return tuple(
            replace(span, start=run.start, stop=run.stop)
            for span in spans
            for run in _runs(range(span.start, span.stop), was_candidate)
        )

    def apply(self, result: SequenceResult) -> None:
        """Take over what the steps did, and go on to the next block if this one is done."""
        block, is_choosing = self.canvas.block_index, self.is_choosing
        if result.block_stop is not None:
            self.canvas.end_block_at(result.block_stop)
        for commit in result.commits:
            if commit.step == FILL_STEP:
                continue
            step = self.num_forwards + commit.step
            self.placed[commit.position] = Placed(
                commit.token, step, block, commit.confidence, commit.log_prob, commit.alternatives
            )
        if result.num_refreshes:
            self.canvas.refreshed()
        self.canvas.commit(result.commits)
        self.new_commits = result.commits
        if result.num_steps:
            self.has_grown = False
            last = result.num_steps - 1
            self.last_committed = frozenset(commit.position for commit in result.commits if commit.step == last)
        if self.audit and self.constraint is None:
            self.audit.apply(result)
        self.num_forwards += result.num_steps
        self.num_refreshes += result.num_refreshes
        self.num_query_rows += result.num_query_rows
        if is_choosing and result.num_steps:
            # The block itself begins with the next step, whose schedule and cache know nothing of this one.
            self.has_chosen = True
            if result.commits:
                self.canvas.go_on_with(result.commits[0].position)
            return
        self.steps_in_block += result.num_steps
        self.post_steps += result.num_post_steps
        if self.canvas.is_sliding:
            self._go_on()
        elif result.block_done:
            self.steps_in_block = self.post_steps = 0
            self.has_chosen = False
            self._go_on()

    def _go_on(self) -> None:
        """To the next block, or to the end."""
        if self.end_tokens and self.canvas.first_settled(self.end_tokens, self.end_from) is not None:
            self.canvas.finish(self.end_fill)
        else:
            length = len(self.canvas)
            self.canvas.next_block()
            self.has_grown = len(self.canvas) != length


def _runs(positions: Iterable[int], holds: Callable[[int], bool]) -> Iterator[Span]:
    """Stretches of the ascending positions where it holds."""
    for is_held, group in groupby(positions, holds):
        run = list(group)
        if is_held:
            yield Span(run[0], run[-1] + 1)
