"""Likelihood of an answer by Monte Carlo, as LLaDA's get_log_likelihood: the noise, its steps and the arithmetic.

A draw masks l of the L answer tokens. The loss of a draw is the cross-entropy at the masked tokens / (l / L). The
estimate is minus the mean loss over draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidRequestError
from ..excerpt import excerpt_of
from ..outputs import ScoreOutput
from ..planning.audit import Audit
from ..planning.constraint import Constraint
from ..planning.plan import SamplingRule, SelectRule, SequencePlan, SequenceResult, Span
from ..planning.visibility import Visibility

# Draws that share one random start of the mask count, as published.
DRAWS_TOGETHER = 16
MAX_DRAWS = 1_000_000


@dataclass(frozen=True, slots=True)
class Draw:
    """One noisy row. `targets`: the token wanted at each masked answer position, -1 elsewhere."""

    tokens: NDArray[np.int32]  # (prompt + answer,)
    targets: NDArray[np.int32]  # (prompt + answer,)
    mask_ratio: float
    group: int | None = None  # draws of one group depend on each other; None: on no other


class ScoredDraw:
    """A draw as a member of a step: one forward, no commits."""

    def __init__(self, draw: Draw, guide: NDArray[np.int32] | None, cfg_scale: float, visibility: Visibility) -> None:
        self.slot = self.guide_slot = self.last_served = -1
        self.audit: Audit | None = None  # it has no cache
        self.constraint: Constraint | None = None
        self.is_ready = True
        self.last_position: int | None = None
        self.log_probs: tuple[float, ...] = ()  # of the targets, in order of position
        self.is_finished = False
        self.draw = draw
        self._guide = guide
        self._cfg_scale = cfg_scale
        self._visibility = visibility

    @property
    def is_seated(self) -> bool:
        return False

    @property
    def length(self) -> int:
        return len(self.draw.tokens)

    @property
    def is_guided(self) -> bool:
        return self._guide is not None

    @property
    def block_index(self) -> int:
        return 0

    def slot_tokens(self) -> tuple[list[int], list[int] | None]:
        return self.draw.tokens.tolist(), None if self._guide is None else self._guide.tolist()

    def plan(self) -> SequencePlan:
        length = len(self.draw.tokens)
        whole = self._visibility.query(Span(0, length), length)
        return SequencePlan(
            slot=self.slot,
            guide_slot=self.guide_slot,
            first_query=whole,
            next_query=whole,
            block=Span(0, length),
            commit_start=0,
            select=SelectRule("top_k", num_steps=1),
            sampling=SamplingRule(mask_id=-1, guidance_scale=self._cfg_scale),
            step=0,
            targets=tuple(self.draw.targets.tolist()),
        )

    def steps_alike(self, most: int) -> int:
        return 1

    def apply(self, result: SequenceResult) -> None:
        self.log_probs = result.log_probs
        self.is_finished = True


def draw_noise(prompt: Sequence[int], answer: Sequence[int], *, mc_num: int, seed: int, mask_id: int) -> Iterator[Draw]:
    """The published draw: mask counts spread evenly over 1..L from a random start, positions at random.

    A draw is made when it is asked for: all together may take more memory than the model.
    """
    if isinstance(mc_num, bool) or not isinstance(mc_num, int) or not 1 <= mc_num <= MAX_DRAWS:
        raise InvalidRequestError(
            f"mc_num: expected an integer from 1 to {MAX_DRAWS}, got {excerpt_of(mc_num)}", param="mc_num"
        )
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise InvalidRequestError(
            f"seed: expected an integer from 0 to 2**64 - 1, got {excerpt_of(seed)}", param="seed"
        )
    return _drawn(np.array([*prompt, *answer], dtype=np.int32), len(answer), mc_num, seed, mask_id)


def _drawn(clean: NDArray[np.int32], length: int, mc_num: int, seed: int, mask_id: int) -> Iterator[Draw]:
    """clean: (prompt + answer,), `length` of them the answer's."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    for begin in range(0, mc_num, DRAWS_TOGETHER):
        rows = min(DRAWS_TOGETHER, mc_num - begin)
        start = int(generator.integers(1, length + 1))
        spread = np.rint(np.linspace(start, start + (rows - 1) * length / rows, rows)).astype(int)
        for count in (spread - 1) % length + 1:
            positions = len(clean) - length + generator.permutation(length)[:count]
            tokens, targets = clean.copy(), np.full_like(clean, -1)
            targets[positions] = clean[positions]
            tokens[positions] = mask_id
            yield Draw(tokens, targets, float(count) / length, group=begin // DRAWS_TOGETHER)


def replay_noise(
    prompt: Sequence[int], answer: Sequence[int], noise: Sequence[Mapping[str, object]], *, mask_id: int
) -> list[Draw]:
    """Recorded draws: {"tokens": noisy prompt + answer, "mask_ratio": in (0, 1]}, and "group" where draws depend on
    each other.
    """
    if not isinstance(noise, (list, tuple)) or not noise:
        raise InvalidRequestError(
            f"noise: expected a non-empty list of draws, got {excerpt_of(noise, 40)}", param="noise"
        )
    clean = np.array([*prompt, *answer], dtype=np.int32)
    return [_replayed(clean, len(prompt), row, f"noise[{index}]", mask_id) for index, row in enumerate(noise)]


def _replayed(clean: NDArray[np.int32], num_prompt: int, row: object, name: str, mask_id: int) -> Draw:
    if not isinstance(row, Mapping) or set(row) - {"group"} != {"tokens", "mask_ratio"}:
        raise InvalidRequestError(
            f"{name}: expected an object with tokens and mask_ratio (and group), got {excerpt_of(row, 40)}",
            param="noise",
        )
    group = row.get("group")
    if group is not None and (isinstance(group, bool) or not isinstance(group, int)):
        raise InvalidRequestError(f"{name}.group: expected an integer, got {excerpt_of(group, 40)}", param="noise")
    ratio = row["mask_ratio"]
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio <= 1:
        raise InvalidRequestError(
            f"{name}.mask_ratio: expected a number above 0 and at most 1, got {excerpt_of(ratio, 40)}", param="noise"
        )
    try:
        tokens = np.asarray(row["tokens"])
    except ValueError:
        tokens = np.empty(0)
    if tokens.shape != clean.shape or tokens.dtype.kind not in "iu":
        raise InvalidRequestError(
            f"{name}.tokens: expected the {len(clean)} token ids of prompt and answer, got shape {tokens.shape}",
            param="noise",
        )
    tokens = tokens.astype(np.int64)
    masked = tokens == mask_id
    masked[:num_prompt] = False
    strange = np.flatnonzero(~masked & (tokens != clean))
    if strange.size:
        at = int(strange[0])
        raise InvalidRequestError(
            f"{name}.tokens[{at}]: expected {clean[at]}{' or the mask' if at >= num_prompt else ''}, got {tokens[at]}",
            param="noise",
        )
    return Draw(tokens.astype(np.int32), np.where(masked, clean, -1).astype(np.int32), float(ratio), group)


def guide_of(draw: Draw, num_prompt: int, mask_id: int) -> NDArray[np.int32]:
    """The unconditional row of guidance: the prompt masked."""
    guide = draw.tokens.copy()
    guide[:num_prompt] = mask_id
    return guide


class Estimate:
    """The mean over draws of sum(log p) / mask ratio, and its standard error. Three numbers are kept of each draw."""

    def __init__(self, num_draws: int) -> None:
        self._values = np.zeros(num_draws)
        self._ratios = np.zeros(num_draws)
        self._groups: list[int | None] = [None] * num_draws

    def take(self, index: int, draw: Draw, log_probs: Sequence[float]) -> None:
        """The draw with that index, of its targets."""
        self._values[index] = sum(log_probs) / draw.mask_ratio
        self._ratios[index] = draw.mask_ratio
        self._groups[index] = draw.group

    def result(self) -> ScoreOutput:
        """When all have been taken.

        The draws of a group are spread evenly over the mask counts from one random start, so they are not independent;
        the groups are. The standard error is therefore that of the weighted mean of group means, as for a cluster
        sample. For a single group it is the successive-difference estimate of a systematic sample, in order of mask
        counts (Wolter, Introduction to Variance Estimation, ch. 8). nan for a single draw.
        """
        values = self._values
        groups: dict[tuple[str, int], list[int]] = {}
        for index, group in enumerate(self._groups):
            groups.setdefault(("alone", index) if group is None else ("group", group), []).append(index)
        mean, count = float(values.mean()), len(values)
        if len(groups) > 1:
            parts = np.array([len(rows) / count * (values[rows].mean() - mean) for rows in groups.values()])
            error = math.sqrt(len(parts) / (len(parts) - 1) * float(np.square(parts).sum()))
        elif count > 1:
            ordered = values[np.argsort(self._ratios, kind="stable")]
            error = math.sqrt(float(np.square(np.diff(ordered)).sum()) / (2 * (count - 1) * count))
        else:
            error = math.nan
        return ScoreOutput(mean, error, count)
