"""What callers send to the thread that steps, and how callers wait. Nothing here takes a lock that could be lost."""

from __future__ import annotations

import contextlib
import functools
import queue
import weakref
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from .jobs import Job

Result = TypeVar("Result")
PATIENCE_S = 1.0  # after which one who waits looks without having been called, as in the child of a fork


class Owner:
    """Stands in a caller's frame for the requests of one call. When the frame goes, for any reason, the requests go."""

    __slots__ = ("__weakref__",)


class Claim(weakref.ref[Any]):
    """Whose request a job is. When the owner is gone, the claim is sent as a letter, which no interrupt can prevent:
    the callback is no Python code.
    """

    __slots__ = ("job",)
    job: Job

    def __new__(cls, owner: object, job: Job, mail: queue.SimpleQueue[Any]) -> Claim:
        claim = super().__new__(cls, owner, mail.put)
        claim.job = job
        return claim

    def __init__(self, owner: object, job: Job, mail: queue.SimpleQueue[Any]) -> None:
        """The arguments are those of `__new__`, which has done all."""
        super().__init__(owner, mail.put)  # type: ignore[call-arg]


class Abort(NamedTuple):
    job: Job


class Errand(Generic[Result]):
    """Other work of the runner, to be done between two steps, and what came of it."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self.work = work
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.is_done = False
        self.bell = Bell()

    def end(self, error: BaseException | None = None) -> None:
        self.error = error
        self.is_done = True
        self.bell.ring()


class Bell:
    """Wakes the one thread that waits on it; a signal wakes that thread too."""

    def __init__(self) -> None:
        rings: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.ring: Callable[[], None] = functools.partial(rings.put, None)
        self._rings = rings

    def wait(self, most_s: float = PATIENCE_S) -> None:
        with contextlib.suppress(queue.Empty):
            self._rings.get(timeout=most_s)
