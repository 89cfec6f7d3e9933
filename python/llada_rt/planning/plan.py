"""What crosses the border to the compiled half: a StepPlan down, a StepResult up. csrc/denoise/plan.h has the same.

All are plain frozen values. Positions are canvas indices, and ranges are half-open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

SelectKind = Literal["top_k", "threshold", "factor"]
Score = Literal["low_confidence", "random", "margin", "entropy"]


@dataclass(frozen=True, slots=True)
class Span:
    """Canvas positions [start, stop)."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class QuerySpan:
    """Recompute the positions [start, stop); each looks at the keys [0, visible)."""

    start: int
    stop: int
    visible: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class SelectRule:
    """Which candidates a step commits.

    `top_k` commits num_masked // num_steps + (i < num_masked % num_steps) at schedule index i, counted from
    `next_step`; `threshold` and `factor` compare with `value` and always commit the best candidate.
    """

    kind: SelectKind
    num_masked: int = 0  # masks in the block when it began
    num_steps: int = 0  # steps of the block
    next_step: int = 0  # schedule index of the next step
    value: float = 0.0  # tau or f


@dataclass(frozen=True, slots=True)
class SamplingRule:
    """How candidates are proposed and scored; the same for the whole life of a request. -1: no such token."""

    mask_id: int
    score: Score = "low_confidence"
    temperature: float = 0.0
    guidance_scale: float = 0.0
    seed: int = 0
    suppressed_token: int = -1  # its logit is -inf
    unconfident_tokens: tuple[int, int] = (-1, -1)  # left out of the softmax once the candidate is chosen
    propose_mask: bool = False  # the mask id may win, as in the published loop
    num_alternatives: int = 0  # that each commit tells, see Alternative


@dataclass(frozen=True, slots=True)
class SequencePlan:
    """One sequence's share of the next steps."""

    slot: int
    guide_slot: int  # the unconditional canvas, -1 without guidance
    first_query: tuple[QuerySpan, ...]  # the first step of this call
    next_query: tuple[QuerySpan, ...]  # the steps after it
    block: Span  # complete when no mask is left in it
    commit_start: int  # masked, queried positions in [commit_start, block.stop) are candidates
    select: SelectRule
    sampling: SamplingRule
    step: int  # forwards this request has run: the noise counter
    compact: bool = False  # of next_query, recompute only the candidates of the step before
    # Scored, not decoded: the token wanted at each position of the canvas, -1 for none. Takes one step.
    targets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Repeat steps for all these sequences until one completes its block, at most `max_steps` times.

    `max_seconds`: after the first one no step begins that would end later, were it as long as the one before; 0: no
    limit.
    """

    sequences: tuple[SequencePlan, ...]
    max_steps: int
    max_seconds: float = 0.0


class Alternative(NamedTuple):
    """One of the most probable tokens at a position, in the distribution that the log_prob of a commit there is of."""

    token: int
    log_prob: float


@dataclass(frozen=True, slots=True)
class Commit:
    """One token written into a canvas; `step` counts from 0 within the call.

    `log_prob` is of the model's distribution in the forward that committed the token: after guidance, without noise and
    without the suppressed token; the mask id counts, the unconfident tokens do not (one that is committed counts for
    itself). Where a grammar writes, it is of all tokens, and 0 where the grammar leaves no choice.
    """

    position: int
    token: int
    confidence: float
    step: int
    log_prob: float = math.nan  # natural logarithm
    alternatives: tuple[Alternative, ...] = ()  # most probable first, of equals the lower id


@dataclass(frozen=True, slots=True)
class SequenceResult:
    """What became of one row of the plan."""

    num_query_rows: int  # positions recomputed
    num_refreshes: int  # forwards that recomputed the whole canvas
    num_steps: int  # forwards run
    num_masked: int  # masks left in the block
    block_done: bool
    commits: tuple[Commit, ...]
    log_probs: tuple[float, ...] = ()  # of the targets, in order of position
    bad_position: int | None = None  # where the logits are not finite: the request cannot go on


@dataclass(frozen=True, slots=True)
class StepResult:
    """One SequenceResult per row of the plan, in its order."""

    sequences: tuple[SequenceResult, ...]
