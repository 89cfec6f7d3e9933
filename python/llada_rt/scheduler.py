"""Scheduler: waiting and running sequences -> StepPlan, StepResult -> who has finished.

Continuous: a finished sequence leaves and a waiting one joins while the others are in the middle of a block.
Pure bookkeeping: it owns no slot and calls nobody; the engine opens and closes slots around it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from .audit import Audit
from .caches import CachePolicy
from .canvas import Canvas
from .decoders import Decoder
from .plan import Commit, QuerySpan, SamplingRule, SequencePlan, SequenceResult, StepPlan, StepResult


class Placed(NamedTuple):
    """How a position got its token: in which forward and block of the request, with what confidence."""

    token: int
    step: int
    block: int
    confidence: float


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
    end_fill: int = -1  # what the positions not computed become
    audit: Audit | None = None
    slot: int = -1
    guide_slot: int = -1
    num_forwards: int = 0
    num_refreshes: int = 0  # forwards that recomputed the whole canvas
    num_query_rows: int = 0  # positions recomputed, over all forwards
    steps_in_block: int = 0
    last_served: int = -1
    placed: dict[int, Placed] = field(default_factory=dict)  # by canvas position
    new_commits: tuple[Commit, ...] = ()  # of the last call
    last_committed: frozenset[int] = frozenset()  # positions, of the last step

    @property
    def is_guided(self) -> bool:
        return self.sampling.guidance_scale > 0

    @property
    def is_finished(self) -> bool:
        return self.canvas.is_complete

    def query(self, ahead: int) -> tuple[QuerySpan, ...]:
        """What the cache policy asks for `ahead` steps from now, if the block lasts so long."""
        return self.cache.query(self.canvas, self.num_forwards + ahead, self.steps_in_block + ahead)

    def first_query(self) -> tuple[QuerySpan, ...]:
        """What the next step recomputes."""
        spans = self.query(0)
        return self._compacted(spans) if self.cache.compact and self.steps_in_block else spans

    def steps_alike(self, most: int) -> int:
        """For how many steps, at most `most`, a plan made now holds: those after the first ask the same."""
        most = min(most, self.canvas.num_masked)  # a block has no more steps left than masks
        if self.audit:
            most = self.audit.steps_alike(most, self.first_query(), len(self.canvas))
        later = self.query(1)
        return next((ahead for ahead in range(2, most) if self.query(ahead) != later), most)

    def plan(self) -> SequencePlan:
        block = self.canvas.block
        return SequencePlan(
            slot=self.slot,
            guide_slot=self.guide_slot,
            first_query=self.first_query(),
            next_query=self.query(1),
            block=block,
            commit_start=block.start if self.commit_start is None else self.commit_start,
            select=self.decoder.select(self.canvas, self.steps_in_block),
            sampling=self.sampling,
            step=self.num_forwards,
            compact=self.cache.compact,
        )

    def _compacted(self, spans: tuple[QuerySpan, ...]) -> tuple[QuerySpan, ...]:
        """Of the spans, the candidates of the last step: as the compiled loop does between the steps of a call."""

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
        block = self.canvas.block_index
        for commit in result.commits:
            self.placed[commit.position] = Placed(
                commit.token, self.num_forwards + commit.step, block, commit.confidence
            )
        self.canvas.commit(result.commits)
        self.new_commits = result.commits
        if result.num_steps:
            last = result.num_steps - 1
            self.last_committed = frozenset(commit.position for commit in result.commits if commit.step == last)
        if self.audit:
            self.audit.apply(result)
        self.num_forwards += result.num_steps
        self.num_refreshes += result.num_refreshes
        self.num_query_rows += result.num_query_rows
        self.steps_in_block += result.num_steps
        if not result.block_done:
            return
        self.steps_in_block = 0
        if self.end_tokens and self.canvas.first_settled(self.end_tokens) is not None:
            self.canvas.finish(self.end_fill)
        else:
            self.canvas.next_block()


class Scheduler:
    """Who runs next. At most `max_num_seqs` sequences hold a slot, and a step recomputes at most
    `max_num_batched_tokens` positions, unless one sequence alone needs more.
    """

    def __init__(self, *, max_num_seqs: int, max_num_batched_tokens: int) -> None:
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}  # by slot, in order of admission
        self._round = 0

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def running(self) -> Iterable[Sequence]:
        return self._running.values()

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence: first come, first served."""
        self._waiting.append(sequence)

    def next_waiting(self) -> Sequence | None:
        """The sequence to admit next, if there is one and a place for it. It stays queued until `start`."""
        return self._waiting[0] if self._waiting and len(self._running) < self.max_num_seqs else None

    def start(self, sequence: Sequence, slot: int, guide_slot: int = -1) -> None:
        """Move the head of the queue to the running sequences; its slots have been opened."""
        assert self._waiting[0] is sequence
        assert slot not in self._running
        self._waiting.popleft()
        sequence.slot, sequence.guide_slot = slot, guide_slot
        sequence.last_served = self._round
        self._running[slot] = sequence

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is; its slots are the caller's to close. Removing twice does nothing."""
        if self._running.get(sequence.slot) is sequence:
            del self._running[sequence.slot]
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def schedule(self, max_steps: int) -> StepPlan:
        """The next call: those that waited longest first, as many as fit the row budget, always at least one."""
        self._round += 1
        chosen: list[SequencePlan] = []
        rows = 0
        for sequence in sorted(self._running.values(), key=lambda s: s.last_served):
            plan = sequence.plan()
            needs = max(_rows(plan.first_query), _rows(plan.next_query)) * (2 if plan.guide_slot >= 0 else 1)
            if chosen and rows + needs > self.max_num_batched_tokens:
                continue
            rows += needs
            sequence.last_served = self._round
            max_steps = sequence.steps_alike(max_steps)
            chosen.append(plan)
        return StepPlan(tuple(chosen), max_steps)

    def apply(self, plan: StepPlan, result: StepResult) -> list[Sequence]:
        """Take over a result; the sequences that are finished by it leave and are returned."""
        assert len(plan.sequences) == len(result.sequences)
        finished = []
        for row, outcome in zip(plan.sequences, result.sequences, strict=True):
            sequence = self._running[row.slot]
            sequence.apply(outcome)
            if sequence.is_finished:
                finished.append(sequence)
                del self._running[row.slot]
        return finished

    def of(self, plan: StepPlan) -> list[Sequence]:
        """The sequences of a plan, in its order."""
        return [self._running[row.slot] for row in plan.sequences]


def _rows(spans: tuple[QuerySpan, ...]) -> int:
    return sum(span.stop - span.start for span in spans)
