"""A trial: one setting answers one chunk of the questions, and its answers are judged.

Time is that inside the compiled loop (`EngineStats.busy_s`). What is right is known, or the exact decoder's answer
counts: then a text is kept that has the same tokens, or that the model finds at least as likely a token.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..json_values import JsonValue
from ..outputs import CompletionOutput, EngineStats, RequestOutput, ScoreOutput
from ..params import SamplingParams
from .questions import Judge, Question, judged
from .space import EXACT, Setting

MC_NUM = 32  # draws of a likelihood: each is one forward


class Answers(Protocol):
    """What tuning needs of an engine."""

    @property
    def eos_token_id(self) -> int | None: ...
    @property
    def eot_token_id(self) -> int | None: ...
    def generate(self, prompts: Sequence[Any], params: Sequence[SamplingParams]) -> list[RequestOutput]: ...
    def score(self, prompt: Sequence[int], answer: Sequence[int], *, mc_num: int, seed: int) -> ScoreOutput: ...
    def stats(self) -> EngineStats: ...


@dataclass(frozen=True, slots=True)
class Trial(JsonValue):
    """`busy_s`: inside the compiled loop; `wall_s`: all of it, judging too. The lists have an entry for each question,
    and none in a trial that was for the time alone. `answers`, of the exact decoder: the tokens, and whether an end
    token followed. `nats`: log-likelihood a token, less that of the exact answer; None where it is not known.
    """

    busy_s: float
    wall_s: float
    tokens: int
    committed: int
    forwards: int
    right: list[float] = field(default_factory=list)
    same: list[bool] = field(default_factory=list)
    nats: list[float | None] = field(default_factory=list)
    answers: list[tuple[list[int], bool]] | None = None

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Trial:
        """The inverse of `to_dict`. KeyError, TypeError or ValueError for what is none."""
        answers = told["answers"]
        return cls(
            busy_s=float(told["busy_s"]),
            wall_s=float(told["wall_s"]),
            tokens=int(told["tokens"]),
            committed=int(told["committed"]),
            forwards=int(told["forwards"]),
            right=[float(one) for one in told["right"]],
            same=[bool(one) for one in told["same"]],
            nats=[None if one is None else float(one) for one in told["nats"]],
            answers=None if answers is None else [([int(i) for i in ids], bool(ended)) for ids, ended in answers],
        )


class Examiner:
    """Asks the questions in chunks of `batch`. `judge`: None where the exact decoder's answers count."""

    def __init__(
        self,
        engine: Answers,
        questions: Sequence[Question],
        *,
        batch: int,
        judge: Judge | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._judge, self._clock = engine, judge, clock
        self._chunks = [questions[start : start + batch] for start in range(0, len(questions), batch)]
        self._exact: dict[int, list[tuple[list[int], bool]]] = {}  # chunk -> its answers
        self._is_warm = False
        self._rated: dict[tuple[int, int, tuple[int, ...]], float] = {}

    @property
    def num_chunks(self) -> int:
        return len(self._chunks)

    def remember(self, setting: Setting, turn: int, trial: Trial) -> None:
        """Take up a trial that an earlier run has made."""
        if setting is EXACT and trial.answers is not None:
            self._exact[turn] = trial.answers

    def measure(self, setting: Setting, turn: int) -> Trial:
        """Turn t asks chunk t; turns after the last chunk are for the time alone. The exact decoder begins a turn."""
        if not self._is_warm:
            self._warm_up()
        began = self._clock()
        chunk = self._chunks[turn % self.num_chunks]
        params = [setting.params(question.own, question.length) for question in chunk]
        before = self._engine.stats().busy_s
        outputs = self._engine.generate([question.prompt for question in chunk], params)
        busy_s = self._engine.stats().busy_s - before
        all_stats = [output.outputs[0].diffusion for output in outputs]
        marks: dict[str, Any] = {}
        if turn < self.num_chunks:
            marks = self._marks(setting, turn, outputs)
        return Trial(
            busy_s=busy_s,
            wall_s=self._clock() - began,
            tokens=sum(stats.emitted_tokens for stats in all_stats),
            committed=round(math.fsum(stats.tokens_per_forward * stats.nfe for stats in all_stats)),
            forwards=sum(stats.nfe for stats in all_stats),
            **marks,
        )

    def _warm_up(self) -> None:
        """Memory is touched for the first time, and threads are woken, in forwards that nobody times."""
        chunk = self._chunks[0]
        params = [EXACT.params(question.own, question.length).replace(max_nfe=2) for question in chunk]
        self._engine.generate([question.prompt for question in chunk], params)
        self._is_warm = True

    def _marks(self, setting: Setting, turn: int, outputs: Sequence[RequestOutput]) -> dict[str, Any]:
        answers = [_answer(output.outputs[0]) for output in outputs]
        if self._judge is not None:
            texts = [output.outputs[0].text for output in outputs]
            pairs = zip(self._chunks[turn], texts, strict=True)
            return {"right": [judged(self._judge, question.answer, text) for question, text in pairs]}
        if setting is EXACT:
            self._exact[turn] = answers
            return {"right": [1.0] * len(answers), "same": [True] * len(answers), "answers": answers}
        same = [answer == exact for answer, exact in zip(answers, self._exact[turn], strict=True)]
        nats = [
            0.0 if is_same else self._nats(turn, index, output)
            for index, (is_same, output) in enumerate(zip(same, outputs, strict=True))
        ]
        kept = [is_same or (gain is not None and gain >= 0) for is_same, gain in zip(same, nats, strict=True)]
        return {"right": [float(one) for one in kept], "same": same, "nats": nats}

    def _nats(self, turn: int, index: int, output: RequestOutput) -> float | None:
        """How much likelier a token of this answer is than one of the exact answer. A template has no likelihood."""
        completion = output.outputs[0]
        if completion.holes is not None:
            return None
        prompt = output.prompt_token_ids
        own = self._rate(turn, index, prompt, _answer(completion))
        exact = self._rate(turn, index, prompt, self._exact[turn][index])
        return None if own is None or exact is None else own - exact

    def _rate(self, turn: int, index: int, prompt: Sequence[int], answer: tuple[list[int], bool]) -> float | None:
        """Log-likelihood a token. The end token counts: an answer that ends too early must not look likely."""
        ids, has_ended = answer
        end = next((i for i in (self._engine.eot_token_id, self._engine.eos_token_id) if i is not None), None)
        tokens = (*ids, end) if has_ended and end is not None else tuple(ids)
        if not prompt or not tokens:
            return None
        key = (turn, index, tokens)
        if key not in self._rated:
            self._rated[key] = self._engine.score(prompt, tokens, mc_num=MC_NUM, seed=0).log_likelihood / len(tokens)
        return self._rated[key]


def _answer(completion: CompletionOutput) -> tuple[list[int], bool]:
    """The tokens, and whether an end token of the model followed."""
    return list(completion.token_ids), completion.finish_reason == "stop" and completion.stop_reason is None
