"""What every compared system has in common, ours too: questions of token ids in, answers with their costs out.

    system = open(...)                     # weights loaded; NotInstalled where its package is missing
    answers = system.answer(questions)     # one batch; an EndpointDied carries what had arrived
    system.close()

A system answers the same way with every call: greedy, no state kept between calls but buffers and compiled code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["mdm", "arm"]


@dataclass(frozen=True, slots=True)
class Question:
    """`max_new_tokens` is the response length of a masked diffusion model (MDM), the limit of an ARM."""

    prompt: tuple[int, ...]
    max_new_tokens: int

    def __post_init__(self) -> None:
        if not self.prompt or self.max_new_tokens < 1:
            raise ValueError(
                f"expected a prompt of at least one token and max_new_tokens > 0, "
                f"got {len(self.prompt)} tokens and {self.max_new_tokens}"
            )


@dataclass(frozen=True, slots=True)
class Answer:
    """`tokens` are what counts in tokens per second. Seconds count from the call of `answer`.

    None where a system doesn't tell (an endpoint says nothing of its forwards, a loop without streaming nothing of
    its first token).
    """

    tokens: tuple[int, ...]  # emitted, cut before the first end token; none is cut where end tokens are ignored
    total_s: float  # until the last token was there
    first_token_s: float | None = None  # until the first token was there
    num_forwards: int | None = None  # forwards that worked on this answer, the prompt's included
    num_computed: int | None = None  # positions put through the network for it: prompt, recomputation and padding too
    num_written: int | None = None  # tokens chosen for it, those after the end token too

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)


class System(Protocol):
    """One thing that is timed. `name` says package, number format and variant: 'llama.cpp q8_0', 'torch compiled'."""

    name: str
    kind: Kind

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """The answers in the order of the questions, which the system works on together."""
        ...

    def close(self) -> None: ...


class NotInstalled(Exception):
    """The package of a system is missing. The message is the line to print: what is skipped, and how to get it."""

    def __init__(self, system: str, package: str, hint: str | None = None) -> None:
        self.system, self.package = system, package
        self.hint = hint or f"pip install '{package}'"
        super().__init__(f"{system}: skipped: {package} is not installed; {self.hint}")


class EndpointDied(Exception):
    """A system stopped in the middle. `answers` has one place per question, None where no whole answer had come."""

    def __init__(self, system: str, answers: Sequence[Answer | None], cause: str) -> None:
        self.system, self.answers, self.cause = system, list(answers), cause
        self.num_answered = sum(answer is not None for answer in answers)
        super().__init__(f"{system}: {self.num_answered} of {len(answers)} answers came, then: {cause}")


def cut(tokens: Sequence[int], stop_ids: Sequence[int]) -> tuple[int, ...]:
    """What stands before the first of `stop_ids`; everything if there are none."""
    stops = set(stop_ids)
    end = next((index for index, token in enumerate(tokens) if token in stops), len(tokens))
    return tuple(tokens[:end])


def check_room(questions: Sequence[Question], context_length: int) -> int:
    """Positions that the longest question takes, its answer included. ValueError if the context has fewer."""
    longest = max(len(question.prompt) + question.max_new_tokens for question in questions)
    if longest > context_length:
        raise ValueError(f"prompt and answer take {longest} positions, the context has {context_length}")
    return longest
