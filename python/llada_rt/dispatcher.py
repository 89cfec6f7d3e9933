"""Dispatcher: between the callers of several threads and the stepper. Queues their requests, hands out results.

Callers step one at a time, for all of them, so their requests run together; a caller steps until its own requests are
done. For callers that must not step (asyncio) a thread does it, see `start_thread`.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeVar

from .config import EngineConfig
from .errors import (
    DeviceError,
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
        self._why_closed = "the engine is closed"
        self._runner = runner
        self._stepper = Stepper(config, runner)
        self._lock = threading.Lock()  # held over each step and each other use of the runner
        self._turn = threading.Lock()  # held while waiting for the lock
        self._max_num_seqs = config.max_num_seqs
        self._max_num_queued = config.max_num_queued_reqs
        self._arrivals: deque[Job] = deque()  # submitted, and not with the stepper yet; under its queue lock
        self._mail: deque[tuple[Job, Literal["drop", "abort"]]] = deque()
        self._work: queue.SimpleQueue[None] = queue.SimpleQueue()  # wakes the thread that steps
        self._thread: threading.Thread | None = None  # in `_serve`
        self._end_of_thread: BaseException | None = None

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
        self._check_served()
        call_began = self._stepper.call_began
        if call_began is not None and (spent := time.monotonic() - call_began) > stuck_after_s:
            raise EngineStuckError(
                f"a call into the compiled loop lasts {spent:.0f} s, expected at most {stuck_after_s} s"
            )

    def check_open(self) -> None:
        if self.is_closed:
            raise EngineClosedError(self._why_closed, hint="make a new Engine")

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

    def check_count(self, num_samples: int) -> None:
        """Raises RequestTooLargeError for more samples than may wait. To be asked before they are made."""
        if num_samples > self._max_num_queued:
            raise RequestTooLargeError(
                f"{num_samples} samples are more than the {self._max_num_queued} that may wait",
                param="n",
                hint="a larger max_num_queued_reqs, or fewer samples",
            )

    def check_fits(self, job: Job) -> None:
        """Raises RequestTooLargeError for what could not be admitted if it were alone."""
        self.check_count(len(job.sources))
        kv_bytes = self._runner.memory.kv_bytes
        most = max(map(self._stepper.kv_bytes_of, job.members))
        if most > kv_bytes:
            raise RequestTooLargeError(
                f"the request needs {most} bytes of K/V memory, and {kv_bytes} are all there is",
                param="gen_length",
                hint="a shorter canvas, or a larger memory_limit; guidance takes twice as much",
            )

    def check_room(self, num_samples: int = 1) -> None:
        """Raises QueueFullError if there is no place for so many now."""
        waiting = self.num_waiting
        if waiting + num_samples > self._max_num_queued:
            raise QueueFullError(
                f"{waiting} requests wait, and {self._max_num_queued} may (max_num_queued_reqs)",
                hint="try again when some have ended",
            )

    def submit(self, job: Job, *, to_thread: bool = False) -> None:
        """Queue a job. Raises QueueFullError, EngineClosedError, InvalidRequestError for an id that is in use.

        `to_thread`: the caller will not step. Raises InternalError if the thread is gone that does.
        """
        with self._stepper.queue_lock:
            self.check_open()
            if to_thread:
                self._check_served()
            if job.request_id in self._stepper.jobs:
                raise InvalidRequestError(f"request_id: {job.request_id!r} is in use", param="request_id")
            self.check_room(len(job.sources))
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
                self.top_up(waiting, under_way, is_first=len(waiting) == len(jobs))
                if not under_way and not waiting:
                    return
                with self.in_turn():
                    self.check_open()
                    self._step()
        finally:
            for job in jobs:
                self.drop(job)

    def top_up(self, waiting: deque[Job], under_way: list[Job], *, is_first: bool, to_thread: bool = False) -> None:
        """Queue some of those that wait for it. Raises QueueFullError if there is no place for the first of all."""
        while waiting and len(under_way) < 2 * self._max_num_seqs:
            if waiting[0].deadline <= time.monotonic():  # nobody else has it yet
                _end_in_time(waiting.popleft())
                continue
            try:
                self.submit(waiting[0], to_thread=to_thread)
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

    def start_thread(self) -> threading.Thread:
        """Have a thread step whenever there is something to do, until the engine is closed or nobody has it any more.

        Raises DeviceError if it cannot be started.
        """
        # A daemon: the interpreter closes engines at exit, and does not wait for this thread before it.
        work = self._work  # not self, which would live as long as the thread
        whose = weakref.ref(self, lambda _: work.put(None))
        thread = threading.Thread(target=_serve, args=(whose, work), name="llada-rt", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise DeviceError(
                f"the thread that steps cannot be started: {error}", hint="a higher limit on threads or memory"
            ) from error
        self._thread = thread
        return thread

    def serve_all(self) -> bool:
        """Step until there is nothing to do. False: the engine is closed."""
        while self._stepper.jobs and not self.is_closed:
            with self.in_turn():
                if self.is_closed:
                    break
                try:
                    self._step()
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException as error:  # a bug of ours or a panic below; those who wait must hear of it
                    self._fail_all(f"a step failed: {error!r}", error)
        return not self.is_closed

    def end_service(self, error: BaseException) -> None:
        """The thread ends with an error: whoever waits for it hears of that, and so do those to come."""
        with self._stepper.queue_lock:
            self._end_of_thread = error
        has_lock = self._lock.acquire(timeout=1.0)
        try:
            self._fail_all(f"the thread that steps has ended: {error!r}", error)
        finally:
            if has_lock:
                self._lock.release()

    def _fail_all(self, message: str, cause: BaseException) -> None:
        for job in list(self._stepper.jobs.values()):
            fault = InternalError(message[:500])
            fault.__cause__ = cause
            self._stepper.fail(job, fault)

    def _check_served(self) -> None:
        """Raises InternalError if there was a thread that steps and it is gone."""
        if self._end_of_thread is not None:
            raise InternalError(
                f"the thread that steps has ended: {self._end_of_thread!r}"[:500], hint="make a new AsyncEngine"
            ) from self._end_of_thread
        if self._thread is not None and not self._thread.is_alive():
            raise InternalError(
                "the thread that steps is gone", hint="make an AsyncEngine after a fork, in the process that uses it"
            )

    def _wake(self) -> None:
        if self._thread is not None:
            self._work.put(None)  # the one way to wake a thread that the garbage collector may take too

    def forked(self) -> None:
        """In the child of a fork: the other threads of the parent are gone, and so are those who would give locks back.

        What was under way is the parent's. An engine that a fork has met in the middle of a step cannot be used, nor
        closed or freed: the compiled module may wait for a thread that is not there.
        """
        is_torn = self._lock.locked()
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._stepper.queue_lock = threading.RLock()
        self._mail.clear()
        self._arrivals.clear()
        if self.is_closed:
            return
        if is_torn:
            self.is_closed = True
            self._why_closed = "the engine is the parent process's, which was in the middle of a step when it forked"
            self._runner.keep_for_ever()
        for job in list(self._stepper.jobs.values()):
            job.notify = None  # the event loop is the parent's
            fault = EngineClosedError("the request was under way when the process forked: it is the parent's")
            if is_torn:
                job.error = fault
            else:
                self._stepper.fail(job, fault)

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


def _end_in_time(job: Job) -> None:
    try:
        job.end("timeout")
    except Exception as error:
        job.error = error


def _serve(whose: weakref.ref[Dispatcher], work: queue.SimpleQueue[None]) -> None:
    """What the thread does that steps. While there is nothing to do it holds nothing that it could keep from an end."""
    try:
        while True:
            work.get()
            dispatcher = whose()
            if dispatcher is None or not dispatcher.serve_all():
                return
            del dispatcher
    except BaseException as error:
        if (left := whose()) is not None:
            left.end_service(error)
