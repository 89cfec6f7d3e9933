"""Dispatcher: requests on their way. Queues them, steps the scheduler, hands out results and step events.

Callers of several threads step the same scheduler, one at a time, so their requests run together; a caller steps until
its own requests are done.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from .config import EngineConfig
from .errors import EngineClosedError, InternalError, ModelError, OutOfMemoryError
from .outputs import EventStream, RequestOutput, StepEvent, request_output
from .params import SamplingParams
from .plan import StepPlan, StepResult
from .requests import Request
from .runner import Runner
from .scheduler import Scheduler, Sequence
from .tokenizer import Tokenizer

# A call into the compiled loop lasts about this long at most, so that Ctrl-C and other threads get their turn.
_CALL_SECONDS = 0.2
_MAX_STEPS = 256


class Job:
    """A request, its sequence, and what has come of it."""

    def __init__(self, request: Request, params: SamplingParams, sequence: Sequence) -> None:
        self.request = request
        self.params = params
        self.sequence = sequence
        self.stream: EventStream | None = None
        self.events: deque[StepEvent] = deque()
        self.output: RequestOutput | None = None
        self.error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.output is not None or self.error is not None

    def result(self) -> RequestOutput:
        if self.error is not None:
            raise self.error
        assert self.output is not None
        return self.output


class Dispatcher:
    """The scheduler of one engine and the lock around it."""

    def __init__(self, config: EngineConfig, runner: Runner, tokenizer: Tokenizer | None) -> None:
        self.runner = runner
        self._lock = threading.RLock()  # held over each step and each other use of the runner
        self._turn = threading.Lock()  # held while waiting for the lock
        self.is_closed = False
        self._tokenizer = tokenizer
        self._scheduler = Scheduler(
            max_num_seqs=config.max_num_seqs, max_num_batched_tokens=config.max_num_batched_tokens
        )
        self._jobs: dict[Sequence, Job] = {}  # queued and running
        self._is_stepping = False
        self._dropped: list[Job] = []  # given up while a step was under way
        self._seconds_per_step = _CALL_SECONDS

    @property
    def num_running(self) -> int:
        return self._scheduler.num_running

    @property
    def num_waiting(self) -> int:
        return self._scheduler.num_waiting

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The lock, handed on fairly: who releases it cannot have it again before one who waits for it.

        Not to be entered by a thread that has the lock.
        """
        with self._turn:
            self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    def run(self, jobs: list[Job]) -> None:
        """Queue the jobs and step until all are done; whatever ends the call early takes them out again."""
        num_done = 0  # of the first jobs; they end roughly in their order
        try:
            self._submit(jobs)
            while True:
                with self.in_turn():
                    while num_done < len(jobs) and jobs[num_done].is_done:
                        num_done += 1
                    if num_done == len(jobs):
                        return
                    self.check_open()
                    self._step()
        finally:
            self._drop(jobs)

    def events(self, job: Job) -> Iterator[StepEvent]:
        try:
            self._submit([job])
            while True:
                with self.in_turn():
                    while not job.events and not job.is_done:
                        self.check_open()
                        self._step()
                if job.events:
                    yield job.events.popleft()
                else:
                    job.result()
                    return
        finally:
            self._drop([job])

    def _submit(self, jobs: list[Job]) -> None:
        with self.in_turn():
            self.check_open()
            for job in jobs:
                self._jobs[job.sequence] = job
                self._scheduler.add(job.sequence)

    def _step(self) -> None:
        """Admit, run, take over: one call into the compiled loop for whoever is due. The lock is held."""
        self._is_stepping = True
        try:
            self._admit()
            if not self._scheduler.num_running:
                return
            plan = self._audited(self._scheduler.schedule(self._max_steps()))
            sequences = self._scheduler.of(plan)
            blocks = [sequence.canvas.block_index for sequence in sequences]
            try:
                result = self._denoise(plan)
                finished = self._scheduler.apply(plan, result)
            except BaseException as error:
                # The canvases below may be ahead of those here, so none of these requests can go on.
                cause = error if isinstance(error, Exception) else InternalError("interrupted in the middle of a step")
                for sequence in sequences:
                    self._fail(self._jobs[sequence], cause)
                if not isinstance(error, Exception):
                    raise
                return
            for sequence, outcome in zip(sequences, result.sequences, strict=True):
                if outcome.bad_position is not None:
                    message = f"the model gave no finite logits at position {outcome.bad_position}"
                    self._fail(self._jobs[sequence], ModelError(message))
            finished = [sequence for sequence in finished if sequence in self._jobs]
            for sequence in finished:
                self._finish(self._jobs[sequence])
            for sequence, block in zip(sequences, blocks, strict=True):
                self._publish(sequence, block)
            for sequence in finished:
                self._jobs.pop(sequence, None)
        finally:
            self._is_stepping = False
            while self._dropped:
                self._remove(self._dropped.pop())

    def _admit(self) -> None:
        """Open slots for those at the head of the queue."""
        while (sequence := self._scheduler.next_waiting()) is not None:
            try:
                slots = self.runner.open(
                    sequence.canvas.tokens, mask_id=sequence.sampling.mask_id, is_guided=sequence.is_guided
                )
            except OutOfMemoryError as error:
                if self._scheduler.num_running:
                    return  # a place is made when one of these ends
                self._fail(self._jobs[sequence], error)
            except Exception as error:
                self._fail(self._jobs[sequence], error)
            else:
                self._scheduler.start(sequence, *slots)

    def _max_steps(self) -> int:
        if any(self._jobs[sequence].stream is not None for sequence in self._scheduler.running):
            return 1
        return max(1, min(_MAX_STEPS, int(_CALL_SECONDS / self._seconds_per_step)))

    def _audited(self, plan: StepPlan) -> StepPlan:
        """The plan, after the audits that are due; a request whose audit fails has left it."""
        rows = []
        for row, sequence in zip(plan.sequences, self._scheduler.of(plan), strict=True):
            try:
                if sequence.audit and sequence.audit.is_due(row, len(sequence.canvas)):
                    row = sequence.audit.examine(self.runner, row, sequence.canvas.tokens)
            except Exception as error:
                self._fail(self._jobs[sequence], error)
            else:
                rows.append(row)
        return StepPlan(tuple(rows), plan.max_steps)

    def _denoise(self, plan: StepPlan) -> StepResult:
        began = time.perf_counter()
        result = self.runner.denoise(plan)
        steps = max((outcome.num_steps for outcome in result.sequences), default=0)
        self._seconds_per_step = max((time.perf_counter() - began) / max(steps, 1), 1e-6)
        return result

    def _finish(self, job: Job) -> None:
        self._close_slots(job.sequence)
        try:
            job.output = request_output(job.request, job.params, job.sequence, self._tokenizer)
        except Exception as error:
            job.error = error

    def _publish(self, sequence: Sequence, block: int) -> None:
        job = self._jobs.get(sequence)
        if job is None or job.stream is None:
            return
        try:
            event = job.stream.event(sequence, block=block, commits=sequence.new_commits, output=job.output)
        except Exception as error:
            self._fail(job, error)
        else:
            job.events.append(event)

    def _fail(self, job: Job, error: Exception) -> None:
        job.error = error
        self._remove(job)

    def _drop(self, jobs: list[Job]) -> None:
        """Take out those that have not ended. May be called by the garbage collector, even within a step."""
        for job in jobs:
            if job.is_done:
                continue
            with self._lock:
                if self._is_stepping:
                    self._dropped.append(job)
                else:
                    self._remove(job)

    def _remove(self, job: Job) -> None:
        """Forget a job that has not finished, and free its slots."""
        if self._jobs.pop(job.sequence, None) is None:
            return
        self._scheduler.remove(job.sequence)
        self._close_slots(job.sequence)

    def _close_slots(self, sequence: Sequence) -> None:
        slots = sequence.slot, sequence.guide_slot
        sequence.slot = sequence.guide_slot = -1
        self.runner.close_slots(*slots)

    def close(self) -> None:
        """End what is under way with EngineClosedError, and free the model. Closing twice does nothing."""
        if self.is_closed:
            return
        self.is_closed = True  # before the lock is had, so that callers who step leave it
        with self._lock:
            for job in list(self._jobs.values()):
                self._fail(job, EngineClosedError("the engine was closed while the request was running"))
            self.runner.close()

    def check_open(self) -> None:
        if self.is_closed:
            raise EngineClosedError("the engine is closed", hint="make a new Engine")
