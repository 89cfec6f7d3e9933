"""Stepper: admits, runs, takes over. One call into the compiled loop for whoever is due, and what it means for jobs.

One thread calls it, the dispatcher's. From others only `jobs`, `call_began`, `num_running` and `stats` may be read.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from typing import Literal

from ..config import EngineConfig
from ..errors import InternalError, ModelError, OutOfMemoryError
from ..outputs import EngineStats
from ..planning.constraint import Constraint
from ..planning.plan import SequencePlan, SequenceResult, StepPlan, StepResult
from ..planning.scheduler import Member, PlanError, Scheduler
from .jobs import Job
from .runner import Runner

# What a call into the compiled loop may last, if a step is not longer: whoever comes meanwhile waits for its end.
_CALL_SECONDS = 0.05
_MAX_STEPS = 256


class Stepper:
    """The scheduler of one engine, the slots of its members, and the jobs they belong to."""

    def __init__(self, config: EngineConfig, runner: Runner) -> None:
        self.runner = runner
        self.jobs: dict[str, Job] = {}  # submitted and not done, by request id; callers put them in
        self.call_began: float | None = None  # the call under way
        self._scheduler = Scheduler(
            max_num_seqs=config.max_num_seqs, max_num_batched_tokens=config.max_num_batched_tokens
        )
        self._job_of: dict[Member, Job] = {}  # of the members queued and running
        self._kv_bytes: dict[Member, int] = {}  # held by the running ones
        self._length_of: dict[Member, int] = {}  # of the canvas that the slots hold
        self._finished: Counter[str] = Counter()
        self._num = Counter(failed=0, dropped=0, calls=0, forwards=0, query_rows=0, committed=0)
        self._busy_s = 0.0
        self._step_ended = time.monotonic()

    @property
    def num_running(self) -> int:
        return self._scheduler.num_running

    @property
    def has_work(self) -> bool:
        """Somebody waits or runs."""
        return bool(self._job_of)

    def stats(self, *, num_waiting: int) -> EngineStats:
        """From any thread."""
        call_began, now = self.call_began, time.monotonic()
        oldest = min((job.arrived for job in list(self.jobs.values())), default=None)
        return EngineStats(
            num_running=self.num_running,
            num_waiting=num_waiting,
            kv_bytes=self.runner.memory.kv_bytes,
            kv_used_bytes=sum(list(self._kv_bytes.values())),
            num_finished=dict(self._finished),
            num_failed=self._num["failed"],
            num_dropped=self._num["dropped"],
            num_calls=self._num["calls"],
            num_forwards=self._num["forwards"],
            num_query_rows=self._num["query_rows"],
            num_committed=self._num["committed"],
            busy_s=self._busy_s,
            call_s=None if call_began is None else now - call_began,
            since_step_s=None if oldest is None else now - max(oldest, self._step_ended),
        )

    def add(self, job: Job) -> None:
        """Queue what the job is made of, if it is still registered."""
        if self.jobs.get(job.request_id) is not job:
            return
        self._job_of.update((member, job) for member in job.members)
        job.joined = lambda member: self._job_of.update({member: job})
        for source in job.sources:
            self._scheduler.add(source)

    def kv_bytes_of(self, member: Member) -> int:
        """K/V memory that it holds while it has its slots."""
        return self.runner.slot_bytes(member.length) * (2 if member.is_guided else 1)

    def step(self) -> None:
        """End those whose time is over, admit, run, take over."""
        self._step()
        self._step_ended = time.monotonic()

    def _step(self) -> None:
        now = time.monotonic()
        for job in [job for job in list(self.jobs.values()) if job.deadline <= now]:
            self.end(job, "timeout")
        self._admit()
        self._advance()
        plan = self._audited(self._schedule())
        if not plan.sequences:
            return
        members = self._scheduler.of(plan)
        blocks = {member: member.block_index for member in members}
        try:
            for member, outcome in self._run(plan):
                if member.constraint is not None and outcome.bad_position is None:
                    member.constraint.take(outcome)
                else:
                    self._take_over(member, outcome, blocks[member])
        except BaseException:
            # The canvases below may be ahead of those here, so none of these requests can go on.
            for member in members:
                if (hit := self._job_of.get(member)) is not None:
                    self.fail(hit, InternalError("interrupted in the middle of a step"))
            raise

    def _admit(self) -> None:
        """Open slots for those at the head of the queue."""
        while (member := self._scheduler.next_waiting()) is not None:
            job = self._job_of[member]
            try:
                slots = self.runner.open(*member.slot_tokens(), member.last_position)
            except OutOfMemoryError as error:
                if self._scheduler.num_running:
                    return  # a place is made when one of these ends
                if member in self._length_of:  # its canvas has grown to more than all the memory
                    self._cut(member, job)
                else:
                    self.fail(job, error)
            except Exception as error:
                self.fail(job, error)
            else:
                self._start(member, job, slots)

    def _start(self, member: Member, job: Job, slots: tuple[int, int]) -> None:
        try:
            self._scheduler.start(member, *slots)
        except Exception as error:  # the draw after this one cannot be made
            self.runner.close_slots(*slots)
            self.fail(job, error)
        else:
            is_first = member not in self._length_of
            self._length_of[member] = member.length
            self._kv_bytes[member] = self.kv_bytes_of(member)
            if is_first:
                job.admitted(member)

    def _advance(self) -> None:
        """Write what the last steps of constrained members and their grammars give. Who has no turn in the time of a
        call has one before the next.
        """
        began = time.monotonic()
        for member in self._scheduler.by_waiting():
            while member in self._job_of and not member.is_ready:
                if member.constraint is not None:
                    self._advance_one(member, member.constraint)
                if time.monotonic() - began > _CALL_SECONDS:
                    return

    def _advance_one(self, member: Member, constraint: Constraint) -> None:
        try:
            outcome = constraint.advance(member.slot_tokens()[0])
            for slot in (member.slot, member.guide_slot):
                if slot >= 0 and outcome.commits:
                    canvas = self.runner.canvas(slot)
                    for commit in outcome.commits:
                        canvas[commit.position] = commit.token
                    self.runner.write(slot, canvas, member.last_position)
        except Exception as error:
            self.fail(self._job_of[member], error)
        else:
            self._num["committed"] += len(outcome.commits)
            if outcome.num_steps or outcome.commits:
                self._take_over(member, outcome, member.block_index)

    def _schedule(self) -> StepPlan:
        while True:
            try:
                return self._scheduler.schedule(_MAX_STEPS)
            except PlanError as error:
                self.fail(self._job_of[error.member], error.cause)

    def _audited(self, plan: StepPlan) -> StepPlan:
        """The plan, after the audits that are due; a request whose audit fails has left it."""
        rows = []
        for row, member in zip(plan.sequences, self._scheduler.of(plan), strict=True):
            try:
                if member.audit and member.constraint is None and member.audit.is_due(row, member.length):
                    row = member.audit.examine(self.runner, row, member.slot_tokens()[0])
            except Exception as error:
                self.fail(self._job_of[member], error)
            else:
                rows.append(row)
        return StepPlan(tuple(rows), plan.max_steps)

    def _max_seconds(self) -> float:
        """How long a call may last, for other callers and for the next deadline. One step is always run."""
        soonest = min((job.deadline for job in list(self.jobs.values())), default=float("inf"))
        return max(1e-6, min(_CALL_SECONDS, soonest - time.monotonic()))

    def _run(self, plan: StepPlan) -> list[tuple[Member, SequenceResult]]:
        """What came of the members of the plan, less those that failed.

        If the call fails, each is tried alone, so that a fault ends the requests that have it and no others.
        """
        members = self._scheduler.of(plan)
        try:
            result = self._denoise(plan)
        except Exception as error:
            if len(members) == 1:
                self.fail(self._job_of[members[0]], error)
                return []
            rows = zip(plan.sequences, members, strict=True)
            return [pair for row, member in rows for pair in self._run_alone(row, member, error)]
        return list(zip(members, result.sequences, strict=True))

    def _run_alone(self, row: SequencePlan, member: Member, error: Exception) -> list[tuple[Member, SequenceResult]]:
        job = self._job_of.get(member)
        if job is None:  # another sample of the request has failed
            return []
        try:
            is_as_before = self.runner.canvas(row.slot) == member.slot_tokens()[0]
        except Exception as worse:
            self.fail(job, worse)
            return []
        if not is_as_before:  # earlier steps of the call have committed what nobody was told
            self.fail(job, error)
            return []
        return self._run(StepPlan((row,), 1))

    def _denoise(self, plan: StepPlan) -> StepResult:
        self.call_began = began = time.monotonic()
        try:
            result = self.runner.denoise(replace(plan, max_seconds=self._max_seconds()))
        finally:
            self.call_began = None
            self._busy_s += time.monotonic() - began
        steps = max((outcome.num_steps for outcome in result.sequences), default=0)
        self._num["calls"] += 1
        self._num["forwards"] += steps
        self._num["query_rows"] += sum(outcome.num_query_rows for outcome in result.sequences)
        self._num["committed"] += sum(len(outcome.commits) for outcome in result.sequences)
        return result

    def _take_over(self, member: Member, outcome: SequenceResult, block: int) -> None:
        job = self._job_of.get(member)
        if job is None:  # another sample of the request has failed
            return
        if outcome.bad_position is not None:
            self.fail(job, ModelError(f"the model gave no finite logits at position {outcome.bad_position}"))
            return
        try:
            self._scheduler.settle(member, outcome)
            if job.stepped(member, block):
                self._release(member)
            elif member in self._job_of and member.length != self._length_of[member]:
                self._refit(member)
        except Exception as error:
            self.fail(job, error)
            return
        self._tell(job)

    def _refit(self, member: Member) -> None:
        """Write a canvas that has grown into its slots or, where these are too small, let the member wait for others.

        Nothing is lost: a block begins with a step that computes the whole canvas.
        """
        if self.kv_bytes_of(member) == self._kv_bytes[member]:
            for slot, tokens in zip((member.slot, member.guide_slot), member.slot_tokens(), strict=True):
                if tokens is not None:
                    self.runner.write(slot, tokens, member.last_position)
            self._length_of[member] = member.length
            return
        self.runner.close_slots(member.slot, member.guide_slot)
        self._kv_bytes.pop(member)
        self._scheduler.wait_again(member)

    def _cut(self, member: Member, job: Job) -> None:
        """Let a response end where it is."""
        try:
            job.cut(member)
            self._release(member)
        except Exception as error:
            self.fail(job, error)
            return
        self._tell(job)

    def end(self, job: Job, reason: Literal["timeout", "abort"]) -> None:
        """End a job as it is."""
        try:
            job.end(reason)
        except Exception as error:
            job.error = error
        self._tell(job)

    def fail(self, job: Job, error: Exception) -> None:
        """End a job with an error."""
        if not job.is_done:
            job.error = error
            self._tell(job)

    def drop(self, job: Job) -> None:
        """Forget a job for which nobody waits."""
        if not job.is_done:
            job.error = InternalError("dropped")  # nobody will see it
            self._num["dropped"] += 1
            self._forget(job)
            job.has_ended = True

    def _tell(self, job: Job) -> None:
        """The job has something new; if it is done, forget it first."""
        if job.is_done:
            if job.error is None:
                self._finished[job.finish_reason] += 1
            else:
                self._num["failed"] += 1
            try:
                self._forget(job)
            finally:
                job.has_ended = True
        if job.notify is not None and (job.has_ended or job.has_events):
            job.notify()

    def _forget(self, job: Job) -> None:
        if self.jobs.get(job.request_id) is job:
            del self.jobs[job.request_id]
        for source in job.sources:
            self._scheduler.remove(source)
        for member in job.members:
            self._release(member)
        job.claim = None

    def _release(self, member: Member) -> None:
        """Forget a member, and free its slots."""
        if self._job_of.pop(member, None) is None:
            return
        self._scheduler.remove(member)
        self._kv_bytes.pop(member, None)
        self._length_of.pop(member, None)
        slots = member.slot, member.guide_slot
        member.slot = member.guide_slot = -1
        self.runner.close_slots(*slots)
