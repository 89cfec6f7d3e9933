"""A clock that only moves when a system works, and systems that take the time they are told."""

from collections.abc import Iterator, Sequence
from itertools import cycle

from benchmarks.baselines.contract import Answer, EndpointDied, Question
from benchmarks.harness import Clock


class FakeTime:
    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    @property
    def clock(self) -> Clock:
        return Clock(wall=lambda: self.now, cpu=lambda: self.now / 2)


class FakeSystem:
    """Each call takes the next of `seconds`; an answer is as many tokens as were asked, the last `padding` of no use.

    `dies_after` so many calls; `forgets`: other tokens in every call.
    """

    kind = "arm"

    def __init__(
        self,
        time: FakeTime,
        seconds: float | Sequence[float],
        *,
        name: str = "fake",
        padding: int = 0,
        dies_after: int | None = None,
        forgets: bool = False,
    ) -> None:
        self.name, self.time, self.padding, self.dies_after, self.forgets = name, time, padding, dies_after, forgets
        self.seconds: Iterator[float] = cycle([seconds] if isinstance(seconds, (int, float)) else seconds)
        self.calls = 0
        self.is_open = True

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        if self.calls == self.dies_after:
            raise EndpointDied(self.name, [None] * len(questions), "connection reset")
        self.calls += 1
        seconds = next(self.seconds)
        self.time.sleep(seconds)
        answers = []
        for question in questions:
            first = self.calls if self.forgets else question.prompt[0]
            tokens = range(first, first + question.max_new_tokens - self.padding)
            answers.append(
                Answer(
                    tuple(tokens),
                    total_s=seconds,
                    first_token_s=seconds / 4,
                    num_forwards=question.max_new_tokens,
                    num_computed=len(question.prompt) + question.max_new_tokens,
                    num_written=question.max_new_tokens,
                )
            )
        return answers

    def close(self) -> None:
        self.is_open = False
