"""Decoders: which candidates a step commits. A rule is one class and one line.

A decoder is made for one request and answers, for the active block of its canvas, with a SelectRule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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
    """Fast-dLLM: every candidate whose confidence reaches tau, the best one always."""

    tau: float

    @classmethod
    def of(cls, params: SamplingParams) -> Threshold:
        assert params.threshold is not None
        return cls(params.threshold)

    def select(self, canvas: Canvas, steps_done: int) -> SelectRule:
        return SelectRule("threshold", value=self.tau)


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


DECODERS: dict[str, type[TopK] | type[Threshold] | type[Factor]] = {
    "top_k": TopK,
    "threshold": Threshold,
    "factor": Factor,
}


def decoder_of(params: SamplingParams) -> Decoder:
    """The rule that a request's options ask for."""
    kind = "threshold" if params.threshold is not None else "factor" if params.factor is not None else "top_k"
    return DECODERS[kind].of(params)
