"""Dispatcher: between the callers of several threads and the one thread that steps. Takes requests, hands out results.

A signal handler, a finalizer or Ctrl-C may come between any two lines of a caller. So callers hold no lock and own no
state of the engine. A caller registers a request in one step of a dict. A caller sends letters through a SimpleQueue,
which allows that from within another call of the same thread. Each caller waits on a bell of its own. All else belongs
to the thread that steps, which no signal reaches.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from ..config import EngineConfig
from ..errors import (
    DeviceError,
    EngineClosedError,
    EngineStuckError,
    InternalError,
    InvalidRequestError,
    OutOfMemoryError,
    QueueFullError,
    RequestTooLargeError,
)
from ..log import logger
from ..outputs import EngineStats
from .generate_job import Event, GenerateJob
from .jobs import Job
from .letters import PATIENCE_S, Abort, Bell, Claim, Errand, Owner
from .runner import Runner
from .stepper import Stepper

Result = TypeVar("Result")
LOOK_AGAIN_S = 0.05  # for a place in a queue that is full of other callers' requests
_REST_S = 0.1


class Dispatcher:
    """The stepper of one engine, the thread that steps, and the letters to that thread.

    A Job: to be queued. The Claim of one: nobody waits for it any more. An Abort, an Errand. None: look around.
    """

    def __init__(self, config: EngineConfig, runner: Runner) -> None:
        self.is_closed = False
        self._why_closed = "the engine is closed"
        self._has_shut = False  # the model is freed, or must not be
        self._runner = runner
        self._stepper = Stepper(config, runner)
        self._max_num_seqs = config.max_num_seqs
        self._max_num_queued = config.max_num_queued_reqs
        self._errands: deque[Errand[Any]] = deque()
        self._end_of_thread: BaseException | None = None
        self._set_up_thread()

    def _set_up_thread(self) -> None:
        self._is_busy = False  # the thread has something in hand
        self._is_over = False  # it will do nothing more
        self._farewells: deque[Bell] = deque()  # of those who wait for that
        self._mail: queue.SimpleQueue[Any] = queue.SimpleQueue()
        whose = weakref.ref(self, self._mail.put)
        # A daemon: the interpreter closes engines at exit, and does not wait for this thread before it. Callers ask for
        # its `ident` only: join and is_alive, when they are interrupted, hold a thread to have ended that goes on.
        self.thread = threading.Thread(
            target=_serve, args=(whose, self._mail, threading.Lock()), name="llada-rt", daemon=True
        )

    @property
    def num_running(self) -> int:
        return self._stepper.num_running

    @property
    def num_waiting(self) -> int:
        """Samples and scores in the queue."""
        return sum(job.num_waiting for job in list(self._stepper.jobs.values()) if not job.is_dropped)

    def stats(self) -> EngineStats:
        return self._stepper.stats(num_waiting=self.num_waiting)

    def check_health(self, stuck_after_s: float) -> None:
        """Raises EngineClosedError, InternalError if the thread that steps has ended with an error, or EngineStuckError
        if the compiled loop is overdue. Waits for nothing.
        """
        self.check_open()
        self._check_alive()
        call_began = self._stepper.call_began
        if call_began is not None and (spent := time.monotonic() - call_began) > stuck_after_s:
            raise EngineStuckError(
                f"a call into the compiled loop lasts {spent:.0f} s, expected at most {stuck_after_s} s"
            )

    def check_open(self) -> None:
        if self.is_closed:
            raise EngineClosedError(self._why_closed, hint="make a new Engine")

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

    def submit(self, job: Job, owner: object) -> None:
        """Queue a job, for as long as its owner lives. Waits for nothing.

        Raises QueueFullError, EngineClosedError, InvalidRequestError for an id that is in use, InternalError if the
        thread is gone that steps, EngineStuckError from within that thread.
        """
        self._check_served()
        name, jobs = job.request_id, self._stepper.jobs
        if name in jobs:
            raise _in_use(name)
        self.check_room(len(job.sources))
        job.claim = Claim(owner, job, self._mail)  # first: a job that is registered is somebody's
        if jobs.setdefault(name, job) is not job:
            job.claim = None
            raise _in_use(name)
        logger.debug("request %s is queued", name)
        self._send(job)

    def run(self, jobs: Sequence[Job]) -> None:
        """Wait until all are done; whatever ends the wait early takes them out again.

        Only some of many jobs are queued at a time, so that the jobs of other callers find room.
        """
        waiting, under_way = deque(jobs), list[Job]()
        owner, bell = Owner(), Bell()
        for job in jobs:
            job.notify = bell.ring
        try:
            while True:
                under_way = [job for job in under_way if not job.has_ended]
                self.top_up(waiting, under_way, owner, is_first=len(waiting) == len(jobs))
                if not under_way and not waiting:
                    return
                bell.wait(LOOK_AGAIN_S if waiting else PATIENCE_S)
        finally:
            for job in jobs:
                self.drop(job)

    def top_up(self, waiting: deque[Job], under_way: list[Job], owner: object, *, is_first: bool) -> None:
        """Queue some of those that wait for it. Raises QueueFullError if there is no place for the first of all."""
        while waiting and len(under_way) < 2 * self._max_num_seqs:
            if waiting[0].deadline <= time.monotonic():  # nobody else has it yet
                _end_in_time(waiting.popleft())
                continue
            try:
                self.submit(waiting[0], owner)
            except QueueFullError:
                if is_first and not under_way:
                    raise
                return
            under_way.append(waiting.popleft())

    def events(self, job: GenerateJob) -> Iterator[Event]:
        """The events of a job, as they come; closing the iterator takes the job out."""
        owner, bell = Owner(), Bell()
        job.notify = bell.ring
        try:
            self.submit(job, owner)
            while True:
                has_ended = job.has_ended  # first: what was told before the end is there then
                if job.events:
                    yield job.events.popleft()
                elif has_ended:
                    job.result()
                    return
                else:
                    bell.wait()
        finally:
            self.drop(job)

    def alone(self, work: Callable[[], Result]) -> Result:
        """Other work of the runner, between two steps; where it lacks memory, when requests have ended."""
        self._check_served()
        errand = Errand(work)
        self._send(errand)
        while not errand.is_done:
            errand.bell.wait()
            if not errand.is_done:
                self._check_alive()
        if errand.error is not None:
            raise errand.error
        return errand.result  # type: ignore[return-value]

    def abort(self, request_id: str) -> bool:
        """End a request as it is. False: there is none with this id."""
        job = self._stepper.jobs.get(request_id)
        if job is None or job.is_done:
            return False
        self._mail.put(Abort(job))
        return True

    def drop(self, job: Job) -> None:
        """A caller is done with a job: take the job out if it has not ended."""
        if (claim := job.claim) is not None:
            job.is_dropped = True
            self._mail.put(claim)
        elif job.has_ended:
            # Here, for the thread that steps must wait for no lock, and a handler of logging has one.
            logger.debug("request %s has finished: %s", job.request_id, job.error or job.finish_reason)

    def _send(self, letter: Job | Errand[Any]) -> None:
        """A letter that somebody waits for. Raises what keeps the thread from having read it."""
        self._mail.put(letter)
        self.check_open()
        self._check_alive()

    def close(self) -> None:
        """End what is under way with EngineClosedError, and free the model. Closing twice does nothing.

        From within the thread that steps: as soon as the step is over.
        """
        self.is_closed = True
        self._mail.put(None)
        if self._is_called_by_thread():
            return
        bell = Bell()
        self._farewells.append(bell)
        while self.thread.ident is not None and not self._is_over:
            bell.wait()
        if not self._has_shut:  # the thread never ran, or ended with an error
            self._shut()

    # ---------------------------------------------------------------- the thread that steps

    def start_thread(self) -> None:
        """Have it step whenever there is something to do, until the engine is closed or nobody has it any more.

        Raises DeviceError if it cannot be started. Starting twice does nothing.
        """
        try:
            self.thread.start()
        except RuntimeError as error:
            if self.thread.ident is None:
                raise DeviceError(
                    f"the thread that steps cannot be started: {error}", hint="a higher limit on threads or memory"
                ) from error

    def _check_served(self) -> None:
        """Raises what keeps a caller from being served; after a fork the thread is started anew."""
        self.check_open()
        self._check_alive()
        if self.thread.ident is None:
            self.start_thread()
        if self._is_called_by_thread():
            raise EngineStuckError(
                "the call comes from the thread that steps, which would wait for itself",
                hint="call the engine from another thread; finalizers and trace functions may run in any",
            )

    def _check_alive(self) -> None:
        """Raises InternalError if the thread that steps has ended with an error."""
        if self._end_of_thread is not None:
            raise InternalError(
                f"the thread that steps has ended: {self._end_of_thread!r}"[:500], hint="make a new engine"
            ) from self._end_of_thread

    def _is_called_by_thread(self) -> bool:
        return threading.get_ident() == self.thread.ident

    def serve(self, letter: object) -> bool:
        """Read the letter and step until there is nothing to do. False: the engine is closed."""
        self._is_busy = True
        self._read(letter)
        del letter
        while True:
            self._read_mail()
            if self.is_closed:  # asked after the mail is read: who closes says so before the letter
                break
            self._run_errands()
            if not self._stepper.has_work:
                self._is_busy = False
                return True
            try:
                self._stepper.step()
            except BaseException as error:  # a bug of ours or a panic below; those who wait must hear of it
                self._fail_all(f"a step failed: {error!r}", error)
        self._shut()
        self._is_busy = False
        return False

    def end_service(self, error: BaseException | None) -> None:
        """The thread ends. If by an error, whoever waits for it hears of that, and so do those to come."""
        self._end_of_thread = error
        try:
            if error is not None:
                self._fail_all(f"the thread that steps has ended: {error!r}", error)
        finally:
            self._is_over = True
            while self._farewells:
                self._farewells.popleft().ring()

    def _read_mail(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._read(self._mail.get_nowait())

    def _read(self, letter: object) -> None:
        if isinstance(letter, Job):
            if not letter.is_done:
                self._stepper.add(letter)
        elif isinstance(letter, Claim):
            self._stepper.drop(letter.job)
        elif isinstance(letter, Abort):
            if not letter.job.is_done:
                self._stepper.end(letter.job, "abort")
        elif isinstance(letter, Errand):
            self._errands.append(letter)

    def _run_errands(self) -> None:
        while self._errands:
            errand = self._errands[0]
            try:
                errand.result = errand.work()
            except OutOfMemoryError as error:
                if self._stepper.num_running:
                    return  # again after the next step
                errand.error = error
            except BaseException as error:  # the caller's to see
                errand.error = error
            self._errands.popleft().end(errand.error)

    def _fail_all(self, message: str, cause: BaseException) -> None:
        for job in list(self._stepper.jobs.values()):
            fault = InternalError(message[:500])
            fault.__cause__ = cause
            self._stepper.fail(job, fault)
        while self._errands:
            self._errands.popleft().end(InternalError(message[:500]))

    def _shut(self) -> None:
        self._read_mail()
        for job in list(self._stepper.jobs.values()):
            self._stepper.fail(job, EngineClosedError("the engine was closed while the request was running"))
        while self._errands:
            self._errands.popleft().end(EngineClosedError("the engine was closed before the call"))
        self._runner.close()
        self._has_shut = True

    def before_fork(self) -> None:
        """Let the thread come to rest if the last request has ended, as it may not have done when its caller knows."""
        until = time.monotonic() + _REST_S
        while self._is_busy and not self._stepper.jobs and time.monotonic() < until:
            time.sleep(0.0001)

    def forked(self) -> None:
        """In the child of a fork: the other threads of the parent are gone, and what was under way is the parent's.

        An engine that a fork has met in the middle of a step cannot be used, nor closed or freed: the compiled module
        may wait for a thread that is not there. Any other goes on, with a thread of the child's.
        """
        is_torn = self._is_busy
        self._errands.clear()
        self._set_up_thread()
        if self.is_closed:
            return
        if is_torn:
            self.is_closed = self._has_shut = True
            self._why_closed = "the engine is the parent process's, which was in the middle of a step when it forked"
            self._runner.keep_for_ever()
        for job in list(self._stepper.jobs.values()):
            job.notify = None  # the event loop is the parent's
            fault = EngineClosedError("the request was under way when the process forked: it is the parent's")
            if is_torn:
                job.error, job.has_ended = fault, True
            else:
                self._stepper.fail(job, fault)


def _in_use(request_id: str) -> InvalidRequestError:
    return InvalidRequestError(f"request_id: {request_id!r} is in use", param="request_id")


def _end_in_time(job: Job) -> None:
    try:
        job.end("timeout")
    except Exception as error:
        job.error = error
    job.has_ended = True


def _serve(whose: weakref.ref[Dispatcher], mail: queue.SimpleQueue[Any], role: threading.Lock) -> None:
    """The work of the thread that steps. An idle thread holds no dispatcher, so the dispatcher may be collected."""
    if not role.acquire(blocking=False):
        return  # two callers have started it at once
    fault = None
    try:
        while True:
            letter = mail.get()
            dispatcher = whose()
            if dispatcher is None or not dispatcher.serve(letter):
                break
            del dispatcher, letter
    except BaseException as error:
        fault = error
    if (left := whose()) is not None:
        left.end_service(fault)
