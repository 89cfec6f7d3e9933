"""Dispatcher: between the callers of several threads and the stepper. Queues their requests, hands out results.

Callers step one at a time, for all of them, so their requests run together; a caller steps until its own requests are
done. For callers that must not step (asyncio) a thread does it, in `serve`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeVar

from .config import EngineConfig
from .errors import (
    EngineClosedError,
    EngineStuckError,
    InternalError,
    InvalidRequestError,
    OutOfMemoryError,
    QueueFullError,
    RequestTooLargeError,
)
from .jobs import Event, GenerateJob, Job
from .outputs import EngineStats
from .runner import Runner
from .stepper import Stepper

Result = TypeVar("Result")


class Dispatcher:
    """The stepper of one engine and the lock around it.

    Who has the lock steps. Everybody else leaves a note in `_mail`, which is read before and after each step, and at
    once if nobody has the lock; so nothing but stepping waits for a step, and the garbage collector may drop a stream
    in the middle of one.
    """

    def __init__(self, config: EngineConfig, runner: Runner) -> None:
        self.is_closed = False
        self._runner = runner
        self._stepper = Stepper(config, runner)
        self._lock = threading.Lock()  # held over each step and each other use of the runner
        self._turn = threading.Lock()  # held while waiting for the lock
        self._max_num_seqs = config.max_num_seqs
        self._max_num_queued = config.max_num_queued_reqs
        self._arrivals: deque[Job] = deque()  # submitted, and not with the stepper yet; under its queue lock
        self._mail: deque[tuple[Job, Literal["drop", "abort"]]] = deque()
        self._work: queue.SimpleQueue[None] = queue.SimpleQueue()  # wakes `serve`
        self._is_served = False

    @property
    def num_running(self) -> int:
        return self._stepper.num_running

    @property
    def num_waiting(self) -> int:
        """Samples and scores in the queue."""
        with self._stepper.queue_lock:
            return self._stepper.num_waiting + sum(len(job.sources) for job in self._arrivals)

    def stats(self) -> EngineStats:
        return self._stepper.stats(num_waiting=self.num_waiting)

    def check_health(self, stuck_after_s: float) -> None:
        """Raises EngineClosedError, or EngineStuckError if the compiled loop is overdue. Waits for nothing."""
        self.check_open()
        call_began = self._stepper.call_began
        if call_began is not None and (spent := time.monotonic() - call_began) > stuck_after_s:
            raise EngineStuckError(
                f"a call into the compiled loop lasts {spent:.0f} s, expected at most {stuck_after_s} s"
            )

    def check_open(self) -> None:
        if self.is_closed:
            raise EngineClosedError("the engine is closed", hint="make a new Engine")

    # ---------------------------------------------------------------- the lock and the mail

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The lock, handed on fairly: who releases it cannot have it again before one who waits for it.

        Not to be entered by a thread that has the lock.
        """
        with self._turn:
            self._lock.acquire()
        try:
            self._read_mail()
            yield
        finally:
            self._lock.release()
            self._settle()

    def alone(self, work: Callable[[], Result]) -> Result:
        """Other work of the runner, between two steps; where it lacks memory, when requests have ended."""
        while True:
            with self.in_turn():
                self.check_open()
                try:
                    return work()
                except OutOfMemoryError:
                    if not self._stepper.num_running:
                        raise
                self._step()

    def _settle(self) -> None:
        """Read the mail now, unless somebody has the lock and so will read it when done."""
        while (self._mail or self._arrivals) and self._lock.acquire(blocking=False):
            try:
                self._read_mail()
            finally:
                self._lock.release()

    def _read_mail(self) -> None:
        with self._stepper.queue_lock:
            while self._arrivals:
                job = self._arrivals.popleft()
                if not job.is_done:
                    self._stepper.add(job)
        while self._mail:
            job, word = self._mail.popleft()
            if word == "drop":
                self._stepper.drop(job)
            elif not job.is_done:
                self._stepper.end(job, "abort")

    def _step(self) -> None:
        """The lock is held."""
        self._read_mail()
        self._stepper.step()

    # ---------------------------------------------------------------- callers

    def check_fits(self, job: Job) -> None:
        """Raises RequestTooLargeError for what could not be admitted if it were alone."""
        if len(job.sources) > self._max_num_queued:
            raise RequestTooLargeError(
                f"{len(job.sources)} samples are more than the {self._max_num_queued} that may wait",
                param="n",
                hint="a larger max_num_queued_reqs, or fewer samples",
            )
        kv_bytes = self._runner.memory.kv_bytes
        most = max(map(self._stepper.kv_bytes_of, job.members))
        if most > kv_bytes:
            raise RequestTooLargeError(
                f"the request needs {most} bytes of K/V memory, and {kv_bytes} are all there is",
                param="gen_length",
                hint="a shorter canvas, or a larger memory_limit; guidance takes twice as much",
            )

    def submit(self, job: Job) -> None:
        """Queue a job. Raises QueueFullError, EngineClosedError, InvalidRequestError for an id that is in use."""
        with self._stepper.queue_lock:
            self.check_open()
            if job.request_id in self._stepper.jobs:
                raise InvalidRequestError(f"request_id: {job.request_id!r} is in use", param="request_id")
            waiting = self.num_waiting
            if waiting + len(job.sources) > self._max_num_queued:
                raise QueueFullError(
                    f"{waiting} requests wait, and {self._max_num_queued} may (max_num_queued_reqs)",
                    hint="try again when some have ended",
                )
            self._stepper.jobs[job.request_id] = job
            self._arrivals.append(job)
        self._wake()
        self._settle()

    def run(self, jobs: Sequence[Job]) -> None:
        """Step until all are done; whatever ends the call early takes them out again.

        Of many jobs only some are queued at a time, so that they leave room for those of other callers.
        """
        waiting, under_way = deque(jobs), list[Job]()
        try:
            while True:
                under_way = [job for job in under_way if not job.is_done]
                self._top_up(waiting, under_way, is_first=len(waiting) == len(jobs))
                if not under_way and not waiting:
                    return
                with self.in_turn():
                    self.check_open()
                    self._step()
        finally:
            for job in jobs:
                self.drop(job)

    def _top_up(self, waiting: deque[Job], under_way: list[Job], *, is_first: bool) -> None:
        while waiting and len(under_way) < 2 * self._max_num_seqs:
            try:
                self.submit(waiting[0])
            except QueueFullError:
                if is_first and not under_way:
                    raise
                return
            under_way.append(waiting.popleft())

    def events(self, job: GenerateJob) -> Iterator[Event]:
        try:
            self.submit(job)
            while True:
                if job.events:
                    yield job.events.popleft()
                elif job.is_done:
                    job.result()
                    return
                else:
                    with self.in_turn():
                        if not job.events and not job.is_done:
                            self.check_open()
                            self._step()
        finally:
            self.drop(job)

    def abort(self, request_id: str) -> bool:
        """End a request as it is. False: there is none with this id."""
        with self._stepper.queue_lock:
            job = self._stepper.jobs.get(request_id)
        if job is None or job.is_done:
            return False
        self._mail.append((job, "abort"))
        self._wake()
        self._settle()
        return True

    def drop(self, job: Job) -> None:
        """Take out a job that nobody waits for any more. Never waits; the garbage collector may call it."""
        if self._stepper.jobs.get(job.request_id) is job:
            self._mail.append((job, "drop"))
            self._wake()
            self._settle()

    # ---------------------------------------------------------------- a thread that steps

    def serve(self) -> None:
        """Step whenever there is something to do, until the engine is closed."""
        self._is_served = True
        while not self.is_closed:
            self._work.get()
            while self._stepper.jobs and not self.is_closed:
                with self.in_turn():
                    if self.is_closed:
                        return
                    try:
                        self._step()
                    except Exception as error:  # a bug of ours; those who wait must hear of it
                        for job in list(self._stepper.jobs.values()):
                            fault = InternalError(f"a step failed: {error!r}"[:500])
                            fault.__cause__ = error
                            self._stepper.fail(job, fault)

    def _wake(self) -> None:
        if self._is_served:
            self._work.put(None)  # the one way to wake a thread that the garbage collector may take too

    def close(self) -> None:
        """End what is under way with EngineClosedError, and free the model. Closing twice does nothing."""
        with self._stepper.queue_lock:
            if self.is_closed:
                return
            self.is_closed = True  # before the lock is had, so that callers who step leave it
        self._wake()
        with self._lock:
            self._read_mail()
            for job in list(self._stepper.jobs.values()):
                self._stepper.fail(job, EngineClosedError("the engine was closed while the request was running"))
            self._runner.close()
