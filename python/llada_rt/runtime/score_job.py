"""ScoreJob: one likelihood, made of draws that take part in the steps of all requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from ..errors import RequestCancelledError
from ..outputs import ScoreOutput
from ..planning.scheduler import Draws, Member
from .jobs import Job
from .score import Estimate, ScoredDraw


class ScoreJob(Job):
    """One likelihood: its draws, each a step of its own. The order of the draws plays no part in the result.

    A draw is made when the one before it has been admitted, and forgotten when its step has been run.
    """

    def __init__(self, request_id: str, draws: Iterator[ScoredDraw], num_draws: int) -> None:
        super().__init__(request_id)
        self.output: ScoreOutput | None = None
        self._index_of: dict[Member, int] = {}  # of the draws that there are now
        self._estimate = Estimate(num_draws)
        self._source = Draws(self._counted(draws))
        self._num_left = num_draws

    def _counted(self, draws: Iterator[ScoredDraw]) -> Iterator[ScoredDraw]:
        for index, draw in enumerate(draws):
            self._index_of[draw] = index
            if self.joined is not None:
                self.joined(draw)
            yield draw

    @property
    def sources(self) -> Sequence[Draws]:
        return [self._source]

    @property
    def members(self) -> Sequence[Member]:
        return list(self._index_of)

    @property
    def num_waiting(self) -> int:
        return 0 if self._source.first is None else 1

    @property
    def has_result(self) -> bool:
        return self.output is not None

    @property
    def finish_reason(self) -> str:
        return "score"

    def result(self) -> ScoreOutput:
        if self.error is not None:
            raise self.error
        assert self.output is not None
        return self.output

    def stepped(self, member: Member, block: int) -> bool:
        assert isinstance(member, ScoredDraw)
        self._estimate.take(self._index_of.pop(member), member.draw, member.log_probs)
        self._num_left -= 1
        if self._num_left == 0:
            self.output = self._estimate.result()
        return True

    def end(self, reason: Literal["timeout", "abort"]) -> None:
        self.error = RequestCancelledError(f"{self.request_id}: the score was aborted")
