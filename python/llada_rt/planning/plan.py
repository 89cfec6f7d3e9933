"""What crosses the border to the compiled half: a StepPlan down, a StepResult up. csrc/denoise/plan.h has the same.

All are plain frozen values. Positions are canvas indices, and ranges are half-open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

SelectKind = Literal["top_k", "threshold", "factor", "frechet", "local_leap", "entropy_bound", "propose"]
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
    `next_step`. `propose` commits none: one step tells all candidates, and the caller writes what it makes of them. The
    others commit what passes `value` (decoders.py tells how), and at least the `count` best candidates; where they have
    a schedule, also at least what it says, and the block ends with it (LLaDA2.0, SDAR).

    Where a plan lets edit tokens (LLaDA2.1), a candidate that differs from the token at its position and whose
    confidence reaches `edit_threshold` takes its place. Edits do not count into the minimum and never write a mask. A
    block whose masks are filled is then edited on, for `max_post_steps` steps or until one edits nothing.
    """

    kind: SelectKind
    num_masked: int = 0  # what the schedule divides: LLaDA's, the masks in the block when it began
    num_steps: int = 0  # of the schedule; 0: there is none
    next_step: int = 0  # schedule index of the next step
    count: int = 1  # of candidates, unless there are fewer
    value: float = 0.0  # tau: confidence >= tau passes; or f, delta, kappa, gamma
    edit_threshold: float = math.inf  # nothing is that sure
    max_post_steps: int = 0
    near_value: float = 0.0  # local_leap: so sure near an anchor
    radius: int = 0  # local_leap: as far as near reaches
    alpha: float = 0.0  # threshold: by this share tau falls while the canvas fills


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


@dataclass(frozen=True, slots=True, eq=False)
class AllowedTokens:
    """The tokens that may be the candidate at a position; the mask id never is. Confidence is of all tokens."""

    position: int
    tokens: NDArray[np.uint32]  # (vocabulary / 32, rounded up): token t is bit t % 32 of word t // 32


@dataclass(frozen=True, slots=True)
class SequencePlan:
    """One sequence's share of the next steps."""

    slot: int
    guide_slot: int  # the unconditional canvas, -1 without guidance
    first_query: tuple[QuerySpan, ...]  # the first step of this call
    next_query: tuple[QuerySpan, ...]  # the steps after it
    block: Span  # complete when no mask is left in it, and nothing left to edit
    commit_start: int  # masked, queried positions in [commit_start, block.stop) are candidates
    select: SelectRule
    sampling: SamplingRule
    step: int  # forwards this request has run: the noise counter
    compact: bool = False  # of next_query, recompute only the candidates of the step before
    editable: tuple[Span, ...] = ()  # of [commit_start, block.stop): what is queried there may be edited
    post_steps: int = 0  # that the block has run without masks
    # Scored, not decoded: the token wanted at each position of the canvas, -1 for none. Takes one step.
    targets: tuple[int, ...] = ()
    allowed: tuple[AllowedTokens, ...] = ()  # at ascending positions of the block; elsewhere every token is
    # Where there is one, masks before it are candidates too, and the block ends after the surest of [block.start,
    # border_stop) that is `border_token` and at least so probable, wherever `block` ends (AdaBlock). Takes one step.
    border_stop: int = 0  # 0: the block ends as planned
    border_token: int = -1
    border_probability: float = 0.0


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
    """One token written into a canvas, over a mask or, as an edit, over another token; `step` counts from 0 within the
    call.

    `log_prob` is of the model's distribution in the forward that committed the token: after guidance, without noise and
    without the suppressed token; the mask id counts, the unconfident tokens do not (one that is committed counts for
    itself). A grammar narrows the choice and not the distribution; where it leaves no choice, `log_prob` is 0.
    """

    position: int
    token: int
    confidence: float
    step: int
    log_prob: float = math.nan  # natural logarithm
    alternatives: tuple[Alternative, ...] = ()  # most probable first, of equals the lower id
    replaced: int | None = None  # the token that an edit has replaced; None: the position was masked


@dataclass(frozen=True, slots=True)
class SequenceResult:
    """What became of one row of the plan."""

    num_query_rows: int  # positions recomputed
    num_refreshes: int  # forwards that recomputed all that their positions see
    num_steps: int  # forwards run
    num_masked: int  # masks left in the block
    block_done: bool
    commits: tuple[Commit, ...]
    log_probs: tuple[float, ...] = ()  # of the targets, in order of position
    bad_position: int | None = None  # where the logits are not finite: the request cannot go on
    proposals: tuple[Commit, ...] = ()  # candidates by position, not written: of the rule `propose`
    num_post_steps: int = 0  # of num_steps, those that found no mask and could only edit
    block_stop: int | None = None  # where a border was found, or as planned; None: the plan looked for none


@dataclass(frozen=True, slots=True)
class StepResult:
    """One SequenceResult per row of the plan, in its order."""

    sequences: tuple[SequenceResult, ...]
