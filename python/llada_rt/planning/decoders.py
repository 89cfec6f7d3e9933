"""Decoders: which candidates a step commits. A rule is one class and one line.

A decoder is made for one request and answers, for the active block of its canvas, with a SelectRule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..options.precedence import RULES
from ..params import SamplingParams
from .canvas import Canvas
from .plan import SelectRule


class Decoder(Protocol):
    """What a decoder answers; `steps_done` counts the steps already run in the active block."""

    def select(self, canvas: Canvas, steps_done: int) -> SelectRule: ...


def steps_of_block(steps: int, num_blocks: int, block: int) -> int:
    """LLaDA's integer schedule, applied to steps over blocks: the first steps % num_blocks blocks get one more.

    Every block gets at least one step, so fewer steps than blocks means one step a block.
    """
    return max(1, steps // num_blocks + (block < steps % num_blocks))


@dataclass(frozen=True, slots=True)
class TopK:
    """LLaDA: the steps of a block share its masks evenly, the first ones take one more. None: one token a step."""

    steps: int | None

    @classmethod
    def of(cls, params: SamplingParams) -> TopK:
        return cls(params.steps)

    def select(self, canvas: Canvas, steps_done: int) -> SelectRule:
        if canvas.is_sliding:  # a block may have too few masks for its share, which later steps then take over
            left = canvas.masks_in(canvas.span)
            num_steps = left if self.steps is None else max(1, self.steps - steps_done)
            return SelectRule("top_k", num_masked=left, num_steps=num_steps)
        if self.steps is None:
            num_steps = canvas.block_start_masked
        else:
            num_steps = steps_of_block(self.steps, len(canvas.blocks), canvas.block_index)
        return SelectRule("top_k", num_masked=canvas.block_start_masked, num_steps=num_steps, next_step=steps_done)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Fast-dLLM: every candidate whose confidence reaches tau, the best one always.

    Streaming-dLLM: tau falls while the canvas fills, to tau (1 - alpha (1 - r)). r is the share of masks in the block
    and in what it sees after it.
    """

    tau: float
    alpha: float

    @classmethod
    def of(cls, params: SamplingParams) -> Threshold:
        assert params.threshold is not None
        return cls(params.threshold, params.threshold_alpha)

    def select(self, canvas: Canvas, steps_done: int) -> SelectRule:
        return SelectRule("threshold", value=self.tau, alpha=self.alpha)


@dataclass(frozen=True, slots=True)
class Factor:
    """Fast-dLLM: the n best with the largest n such that (n + 1)(1 - c_n) < f, at least one."""

    factor: float

    @classmethod
    def of(cls, params: SamplingParams) -> Factor:
        assert params.factor is not None
        return cls(params.factor)

    def select(self, canvas: Canvas, steps_done: int) -> SelectRule:
        return SelectRule("factor", value=self.factor)


@dataclass(frozen=True, slots=True)
class Frechet:
    """Fast-dLLM++: the n best with the largest n whose score exceeds delta, at least one.

    The score is the Fréchet lower bound of the probability that all are right, c_1 + ... + c_n - (n - 1), less the
    doubt 1 - c_n of the last.
    """

    delta: float

    @classmethod
    def of(cls, params: SamplingParams) -> Frechet:
        assert params.frechet is not None
        return cls(params.frechet)

    def select(self, canvas: Canvas, steps_done: int) -> SelectRule:
        return SelectRule("frechet", value=self.delta)


@dataclass(frozen=True, slots=True)
class LocalLeap:
    """LocalLeap: every candidate that reaches kappa (an anchor), and every one that reaches tau at most `radius`
    positions from an anchor; at least one.
    """

    kappa: float
    tau: float
    radius: int

    @classmethod
    def of(cls, params: SamplingParams) -> LocalLeap:
        assert params.local_leap is not None
        return cls(params.local_leap, params.local_leap_threshold, params.local_leap_radius)

    def select(self, canvas: Canvas, steps_done: int) -> SelectRule:
        return SelectRule("local_leap", value=self.kappa, near_value=self.tau, radius=self.radius)


@dataclass(frozen=True, slots=True)
class EntropyBound:
    """EB-Sampler: the n best with the largest n whose entropies, less the largest of them, sum up to at most gamma; at
    least one. By the score `entropy`, which the option sets, the best have the least entropy.
    """

    gamma: float

    @classmethod
    def of(cls, params: SamplingParams) -> EntropyBound:
        assert params.entropy_bound is not None
        return cls(params.entropy_bound)

    def select(self, canvas: Canvas, steps_done: int) -> SelectRule:
        return SelectRule("entropy_bound", value=self.gamma)


# By the option that asks for it; without any of them top_k.
DECODERS: dict[str, Callable[[SamplingParams], Decoder]] = {
    "top_k": TopK.of,
    "threshold": Threshold.of,
    "factor": Factor.of,
    "frechet": Frechet.of,
    "local_leap": LocalLeap.of,
    "entropy_bound": EntropyBound.of,
}


def decoder_of(params: SamplingParams) -> Decoder:
    """The rule that a request's options ask for."""
    return DECODERS[next((rule for rule in RULES if getattr(params, rule) is not None), "top_k")](params)
