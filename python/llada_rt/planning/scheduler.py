"""Scheduler: waiting and running sequences -> StepPlan, StepResult -> who has finished.

Continuous: a finished sequence leaves and a waiting one joins while the others are in the middle of a block. The draws
of a score take part in the same steps.
Pure bookkeeping: it owns no slot and calls nobody; the dispatcher opens and closes slots around it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple, Protocol

from .audit import Audit
from .caches import CachePolicy
from .canvas import Canvas
from .constraint import FILL_STEP, Constraint
from .decoders import Decoder
from .plan import Alternative, Commit, QuerySpan, SamplingRule, SelectRule, SequencePlan, SequenceResult, StepPlan


class Placed(NamedTuple):
    """How a position got its token: in which forward and block of the request, how sure and how likely."""

    token: int
    step: int
    block: int
    confidence: float
    log_prob: float
    alternatives: tuple[Alternative, ...]


class Member(Protocol):
    """What takes part in steps: a sequence, or a draw of a score."""

    slot: int
    guide_slot: int
    last_served: int
    audit: Audit | None

    @property
    def constraint(self) -> Constraint | None:
        """What writes the coming step in place of the compiled loop."""

    @property
    def is_seated(self) -> bool:
        """Counts in max_num_seqs. The others stay for one step, and together take no more than a step's rows."""

    @property
    def length(self) -> int:
        """Positions of its canvas."""

    @property
    def is_guided(self) -> bool:
        """It has a second canvas of that length."""

    @property
    def block_index(self) -> int:
        """The block it is in."""

    @property
    def is_finished(self) -> bool: ...

    def slot_tokens(self) -> tuple[list[int], list[int] | None]:
        """What its slots are opened with: the canvas and, if it is guided, the unconditional one."""

    def plan(self) -> SequencePlan: ...

    def steps_alike(self, most: int) -> int: ...

    def apply(self, result: SequenceResult) -> None: ...


@dataclass(eq=False, slots=True)
class Sequence:
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
    has_chosen: bool = False  # the active block
    last_served: int = -1
    placed: dict[int, Placed] = field(default_factory=dict)  # by canvas position
    new_commits: tuple[Commit, ...] = ()  # of the last call
    last_committed: frozenset[int] = frozenset()  # positions, of the last step

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

    def slot_tokens(self) -> tuple[list[int], list[int] | None]:
        tokens = self.canvas.tokens
        return tokens, [self.sampling.mask_id] * len(tokens) if self.is_guided else None

    def query(self, ahead: int) -> tuple[QuerySpan, ...]:
        """What the cache policy asks for `ahead` steps from now, if the block lasts so long."""
        return self.cache.query(self.canvas, self.num_forwards + ahead, self.steps_in_block + ahead)

    @property
    def constraint(self) -> Constraint | None:
        """That of the active block, which writes it in place of the compiled loop."""
        return None if self.canvas.is_complete else self.constraints.get(self.canvas.block.start)

    @property
    def is_choosing(self) -> bool:
        """The next step commits one token, the surest of all blocks, and its block becomes the active one."""
        return self.by_confidence and not self.has_chosen and self.canvas.num_open_blocks() > 1

    def first_query(self) -> tuple[QuerySpan, ...]:
        """What the next step recomputes."""
        if self.is_choosing:
            return (QuerySpan(0, len(self.canvas), len(self.canvas)),)
        spans = self.query(0)
        return self._compacted(spans) if self.cache.compact and self.steps_in_block else spans

    def steps_alike(self, most: int) -> int:
        """For how many steps, at most `most`, a plan made now holds: those after the first ask the same."""
        if self.step_by_step or self.is_choosing or self.constraint is not None:
            return 1
        if self.max_forwards is not None:
            most = min(most, self.max_forwards - self.num_forwards)
        most = min(most, self.canvas.num_masked)  # a block has no more steps left than masks
        if self.audit:
            most = self.audit.steps_alike(most, self.first_query(), len(self.canvas))
        later = self.query(1)
        return next((ahead for ahead in range(2, most) if self.query(ahead) != later), most)

    def plan(self) -> SequencePlan:
        block = self.canvas.block
        commit_start = block.start if self.commit_start is None else self.commit_start
        select = self.decoder.select(self.canvas, self.steps_in_block)
        if self.is_choosing:
            block = self.canvas.span
            commit_start, select = block.start, SelectRule("top_k", num_masked=1, num_steps=1)
        return SequencePlan(
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
        )

    def _compacted(self, spans: tuple[QuerySpan, ...]) -> tuple[QuerySpan, ...]:
        """The last step's candidates within the spans, as the compiled loop finds them between steps of a call."""

        def was_masked(position: int) -> bool:
            return self.canvas.tokens[position] == self.canvas.mask_id or position in self.last_committed

        runs = []
        for span in spans:
            for kept, positions in groupby(range(span.start, span.stop), was_masked):
                run = list(positions)
                if kept:
                    runs.append(QuerySpan(run[0], run[-1] + 1, span.visible))
        return tuple(runs)

    def apply(self, result: SequenceResult) -> None:
        """Take over what the steps did, and go on to the next block if this one is done."""
        block, is_choosing = self.canvas.block_index, self.is_choosing
        for commit in result.commits:
            if commit.step == FILL_STEP:
                continue
            step = self.num_forwards + commit.step
            self.placed[commit.position] = Placed(
                commit.token, step, block, commit.confidence, commit.log_prob, commit.alternatives
            )
        self.canvas.commit(result.commits)
        self.new_commits = result.commits
        if result.num_steps:
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
        if not result.block_done:
            return
        self.steps_in_block = 0
        self.has_chosen = False
        if self.end_tokens and self.canvas.first_settled(self.end_tokens, self.end_from) is not None:
            self.canvas.finish(self.end_fill)
        else:
            self.canvas.next_block()


class PlanError(Exception):
    """`cause` was raised by one member, while the scheduler dealt with all of them."""

    def __init__(self, member: Member, cause: Exception) -> None:
        super().__init__(str(cause))
        self.member = member
        self.cause = cause


class Draws:
    """The draws of one score: members without a seat that wait together and are admitted one after another. At least
    one; each is made when the one before it has been admitted.
    """

    def __init__(self, members: Iterable[Member]) -> None:
        self._members = iter(members)
        self.first: Member | None = next(self._members)

    def take(self) -> None:
        """The first is admitted."""
        self.first = next(self._members, None)


class Scheduler:
    """Who runs next. At most `max_num_seqs` sequences hold a slot, and a step recomputes at most
    `max_num_batched_tokens` positions, unless one sequence alone needs more.

    Fair, with bounds. Waiting: first come, first served; nobody overtakes one whom only memory keeps waiting. Scores
    take turns draw by draw. Running: whoever has waited longest is served in any case, the others as far as they fit;
    so between two calls for the same sequence there are fewer than `max_num_seqs` calls without it, one more while
    draws run.
    """

    def __init__(self, *, max_num_seqs: int, max_num_batched_tokens: int) -> None:
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self._waiting: deque[Sequence | Draws] = deque()
        self._running: dict[int, Member] = {}  # by slot, in order of admission
        self._num_seated = 0
        self._draw_rows = 0  # of the running draws
        self._round = 0
        self._served_before: dict[Member, int] = {}  # of the last plan

    @property
    def num_waiting(self) -> int:
        """Sequences and scores in the queue."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def running(self) -> Iterable[Member]:
        return self._running.values()

    def add(self, source: Sequence | Draws) -> None:
        """Queue a sequence, or the draws of a score."""
        self._waiting.append(source)

    def next_waiting(self) -> Member | None:
        """The one to admit next, if there is a place for any. It stays queued until `start`."""
        for source in self._waiting:
            if isinstance(source, Draws):
                draw = source.first
                assert draw is not None
                if not self._draw_rows or self._draw_rows + _num_rows(draw) <= self.max_num_batched_tokens:
                    return draw
            elif self._num_seated < self.max_num_seqs:
                return source
        return None

    def start(self, member: Member, slot: int, guide_slot: int = -1) -> None:
        """Move what `next_waiting` gave to the running ones; its slots have been opened."""
        assert self.next_waiting() is member
        assert slot not in self._running
        self._take(member)
        member.slot, member.guide_slot = slot, guide_slot
        member.last_served = self._round
        self._running[slot] = member
        self._count(member, 1)

    def _take(self, member: Member) -> None:
        """Out of the queue. A score with draws left goes to its end."""
        for index, source in enumerate(self._waiting):
            if source is member:
                del self._waiting[index]
                return
            if isinstance(source, Draws) and source.first is member:
                source.take()  # first: making the next draw may fail
                del self._waiting[index]
                if source.first is not None:
                    self._waiting.append(source)
                return

    def _count(self, member: Member, sign: int) -> None:
        if member.is_seated:
            self._num_seated += sign
        else:
            self._draw_rows += sign * _num_rows(member)

    def remove(self, gone: Member | Draws) -> None:
        """Forget one, wherever it is; its slots are the caller's to close. Removing twice does nothing."""
        if isinstance(gone, Draws) or self._running.get(gone.slot) is not gone:
            self._waiting = deque(source for source in self._waiting if source is not gone)
            return
        del self._running[gone.slot]
        self._count(gone, -1)

    def schedule(self, max_steps: int) -> StepPlan:
        """The next call: those that waited longest first, as many as fit the row budget, always at least one.

        What a member raises comes out as a PlanError that names it, and nothing has changed.
        """
        chosen: list[tuple[Member, SequencePlan]] = []
        rows = 0
        for member in sorted(self._running.values(), key=lambda m: m.last_served):
            try:
                plan, alike = member.plan(), member.steps_alike(max_steps)
            except Exception as error:
                raise PlanError(member, error) from error
            needs = max(_rows(plan.first_query), _rows(plan.next_query)) * (2 if plan.guide_slot >= 0 else 1)
            if chosen and rows + needs > self.max_num_batched_tokens:
                continue
            rows += needs
            max_steps = alike
            chosen.append((member, plan))
        self._round += 1
        self._served_before = {member: member.last_served for member, _ in chosen}
        for member, _ in chosen:
            member.last_served = self._round
        return StepPlan(tuple(plan for _, plan in chosen), max_steps)

    def postpone(self, member: Member) -> None:
        """It was in the last plan and has not been run: it keeps the place it had among those that wait."""
        member.last_served = self._served_before[member]

    def settle(self, member: Member, outcome: SequenceResult) -> bool:
        """Give a running one its part of a result. True: it is finished by it, and has left."""
        member.apply(outcome)
        if member.is_finished:
            self.remove(member)
        return member.is_finished

    def of(self, plan: StepPlan) -> list[Member]:
        """The members of a plan, in its order."""
        return [self._running[row.slot] for row in plan.sequences]


def _num_rows(member: Member) -> int:
    return member.length * (2 if member.is_guided else 1)


def _rows(spans: tuple[QuerySpan, ...]) -> int:
    return sum(span.stop - span.start for span in spans)
