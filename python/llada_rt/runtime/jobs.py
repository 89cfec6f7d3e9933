"""Job: a request on its way, and its results so far, as the dispatcher and the stepper see any request.

The stepper tells a job what its members did; the job makes outputs and events of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Literal

from ..planning.scheduler import Draws, Member
from ..planning.sequence import SequenceState


class Job:
    """What all requests have in common."""

    def __init__(self, request_id: str, timeout_s: float | None = None) -> None:
        self.request_id = request_id
        self.arrived = time.monotonic()
        self.deadline = math.inf if timeout_s is None else self.arrived + timeout_s
        self.error: Exception | None = None
        self.notify: Callable[[], None] | None = None  # called by the thread that steps, when there is something new
        self.claim: object = None  # the dispatcher's, while the job is registered
        self.is_dropped = False  # nobody waits for it any more, and the thread may not know yet
        self.has_ended = False  # set last of all: nothing more will be told of it
        self.joined: Callable[[Member], None] | None = None  # called with a member that is made when it is needed

    @property
    def sources(self) -> Sequence[SequenceState | Draws]:
        """What it puts into the queue."""
        raise NotImplementedError

    @property
    def members(self) -> Sequence[Member]:
        """Those that there are now; `joined` is told of later ones."""
        raise NotImplementedError

    @property
    def has_result(self) -> bool:
        raise NotImplementedError

    @property
    def finish_reason(self) -> str:
        """Under which the engine counts it."""
        raise NotImplementedError

    @property
    def num_waiting(self) -> int:
        """Sources with something that has not been admitted yet."""
        raise NotImplementedError

    @property
    def has_events(self) -> bool:
        """There is something to be told before the end."""
        return False

    @property
    def is_done(self) -> bool:
        """As the thread that steps sees it; others wait for `has_ended`."""
        return self.has_result or self.error is not None

    def admitted(self, member: Member) -> None:
        """The member has its slots."""

    def stepped(self, member: Member, block: int) -> bool:
        """The member has run steps, those of `block`. True: the job needs no more of it."""
        raise NotImplementedError

    def cut(self, member: Member) -> None:
        """No more of the member can be made: its response ends as it is."""
        raise NotImplementedError

    def end(self, reason: Literal["timeout", "abort"]) -> None:
        """End it as it is."""
        raise NotImplementedError
