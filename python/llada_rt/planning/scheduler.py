"""Scheduler: waiting and running sequences -> StepPlan, StepResult -> who has finished.

Continuous: a finished sequence leaves and a waiting one joins while the others are in the middle of a block. The draws
of a score take part in the same steps.
Pure bookkeeping: it owns no slot and calls nobody; the dispatcher opens and closes slots around it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from .audit import Audit
from .constraint import Constraint
from .plan import QuerySpan, SequencePlan, SequenceResult, StepPlan
from .sequence import SequenceState


class Member(Protocol):
    """What takes part in steps: a sequence, or a draw of a score."""

    slot: int
    guide_slot: int
    last_served: int
    audit: Audit | None

    @property
    def constraint(self) -> Constraint | None:
        """What decides in place of the compiled loop what its steps write."""

    @property
    def is_ready(self) -> bool:
        """It can plan a step now."""

    @property
    def is_seated(self) -> bool:
        """Counts in max_num_seqs. The others stay for one step, and together take no more than a step's rows."""

    @property
    def length(self) -> int:
        """Positions of its canvas. A canvas may grow when the member has run a step."""

    @property
    def last_position(self) -> int | None:
        """The position of the canvas's last token, where that is not its index."""

    @property
    def is_guided(self) -> bool:
        """It has a second canvas of that length."""

    @property
    def block_index(self) -> int:
        """The block it is in."""

    @property
    def is_finished(self) -> bool: ...

    def slot_tokens(self) -> tuple[list[int], list[int] | None]:
        """What its slots hold: the canvas and, if it is guided, the unconditional one."""

    def plan(self) -> SequencePlan: ...

    def steps_alike(self, most: int) -> int: ...

    def apply(self, result: SequenceResult) -> None: ...


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
        self._waiting: deque[SequenceState | Draws] = deque()
        self._running: dict[int, Member] = {}  # by slot, in order of admission
        self._num_seated = 0
        self._draw_rows = 0  # of the running draws
        self._round = 0

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

    def add(self, source: SequenceState | Draws) -> None:
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

    def wait_again(self, member: Member) -> None:
        """A running one gives its slots back, which are the caller's to close, and waits before all others for new."""
        assert isinstance(member, SequenceState)
        self.remove(member)
        member.slot = member.guide_slot = -1
        self._waiting.appendleft(member)

    def remove(self, gone: Member | Draws) -> None:
        """Forget one, wherever it is; its slots are the caller's to close. Removing twice does nothing."""
        if isinstance(gone, Draws) or self._running.get(gone.slot) is not gone:
            self._waiting = deque(source for source in self._waiting if source is not gone)
            return
        del self._running[gone.slot]
        self._count(gone, -1)

    def by_waiting(self) -> list[Member]:
        """The running ones, who has waited longest first."""
        return sorted(self._running.values(), key=lambda member: member.last_served)

    def schedule(self, max_steps: int) -> StepPlan:
        """The next call: of those that are ready those that waited longest first, as many as fit the row budget, always
        at least one.

        What a member raises comes out as a PlanError that names it, and nothing has changed.
        """
        chosen: list[tuple[Member, SequencePlan]] = []
        rows = 0
        for member in self.by_waiting():
            if not member.is_ready:
                continue
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
        for member, _ in chosen:
            member.last_served = self._round
        return StepPlan(tuple(plan for _, plan in chosen), max_steps)

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
