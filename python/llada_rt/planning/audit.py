"""Audit of a cache policy: beside a cached step the exact step is run on a copy of the canvas, and both are compared.

An audit is a diagnosis: an audited step costs a forward over the whole canvas and two over the step's own rows. The
request has the same tokens as without an audit, unless an error budget is given and spent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..outputs import CacheAudit
from .logits import GuidedRows, HiddenRows, pieces
from .plan import QuerySpan, SamplingRule, SequencePlan, SequenceResult, Span, StepPlan, StepResult
from .visibility import Visibility


class Steps(Protocol):
    """What an audit asks of the runner."""

    @property
    def vocab_size(self) -> int: ...
    def copy_slot(self, slot: int) -> int: ...
    def close_slots(self, *slots: int) -> None: ...
    def denoise(self, plan: StepPlan) -> StepResult: ...
    def hidden(self, slot: int, spans: Sequence[QuerySpan], positions: Sequence[int]) -> HiddenRows: ...


class Audit:
    """One request's audit: every `every`-th cached step. A step that recomputes all that its block sees is exact as it
    is: the whole canvas, under full attention.

    `error_budget`: largest KL that is let pass; beyond it the step recomputes all. None: all are.
    """

    def __init__(self, every: int, error_budget: float | None, visibility: Visibility) -> None:
        self.every = every
        self.error_budget = error_budget
        self._visibility = visibility
        self.report = CacheAudit()
        self._num_unseen = 0  # cached steps since the last audited one
        self._is_examined = False  # the first step of the coming call
        self._exact: set[tuple[int, int]] | None = None  # what the exact step beside it has written

    def is_due(self, plan: SequencePlan, length: int) -> bool:
        """Whether the first step of `plan` is to be audited."""
        return self._num_unseen == self.every - 1 and not _is_whole(
            plan.first_query, self._visibility.visible(plan.block, length)
        )

    def steps_alike(self, most: int, first: tuple[QuerySpan, ...], visible: Span) -> int:
        """For how many steps, at most `most`, a call may run: the next one to be audited must begin a call."""
        unseen = self.every - 1 - self._num_unseen
        if _is_whole(first, visible):
            return min(most, 1 + unseen)
        return min(most, unseen or self.every)

    def examine(self, steps: Steps, plan: SequencePlan, tokens: Sequence[int]) -> SequencePlan:
        """Compare the first step of `plan` with the exact one; returns the plan to run. tokens: the whole canvas."""
        rule, length = plan.sampling, len(tokens)
        whole = self._visibility.query(self._visibility.visible(plan.block, length), length)
        editable = {p for span in plan.editable for p in range(span.start, span.stop)}
        stop = max(plan.block.stop, plan.border_stop)
        candidates = [p for p in range(plan.commit_start, stop) if tokens[p] == rule.mask_id or p in editable]
        asked = [p for p in candidates if any(span.start <= p < span.stop for span in plan.first_query)]
        self._is_examined = True
        cached = GuidedRows(steps, rule, (plan.slot, plan.guide_slot), plan.first_query, asked)
        slot = steps.copy_slot(plan.slot)
        guide = -1
        try:
            guide = steps.copy_slot(plan.guide_slot) if plan.guide_slot >= 0 else -1
            exact = GuidedRows(steps, rule, (slot, guide), whole, asked)
            largest_kl = self._compare(rule, exact, cached, steps.vocab_size)
            if self.error_budget is not None and largest_kl > self.error_budget:
                self.report.num_forced_refreshes += 1
                return replace(plan, first_query=whole)
            # The copy now holds the exact keys and values, so the step needs only the rows of its candidates.
            of_candidates = tuple(q for run in _runs(candidates) for q in self._visibility.query(run, length))
            beside = replace(plan, slot=slot, guide_slot=guide, first_query=of_candidates, next_query=whole)
            (result,) = steps.denoise(StepPlan((beside,), 1)).sequences
            self._exact = {(commit.position, commit.token) for commit in result.commits}
        finally:
            steps.close_slots(slot, guide)
        return plan

    def _compare(self, rule: SamplingRule, exact: GuidedRows, cached: GuidedRows, vocab_size: int) -> float:
        """Take both up into the report; the largest KL of the step."""
        report = self.report
        report.num_steps += 1
        divergences = np.zeros(len(exact))
        for begin, end in pieces(exact, vocab_size):
            of_exact, of_cached = exact.logits(begin, end), cached.logits(begin, end)
            differs = _most_likely(of_exact, rule) != _most_likely(of_cached, rule)
            report.num_changed_candidates += int(np.sum(differs))
            divergences[begin:end] = divergence(of_exact, of_cached)
        report.mean_kl += (float(divergences.sum()) - len(exact) * report.mean_kl) / (report.num_positions + len(exact))
        report.num_positions += len(exact)
        largest = float(np.max(divergences))
        report.max_kl = max(report.max_kl, largest)
        return largest

    def apply(self, result: SequenceResult) -> None:
        """Take over what a call has done."""
        num_cached = result.num_steps - result.num_refreshes
        self._num_unseen = num_cached if self._is_examined else self._num_unseen + num_cached
        self._is_examined = False
        if self._exact is None:
            return
        self._num_unseen -= 1  # the first step, which has been audited
        written = {(commit.position, commit.token) for commit in result.commits if commit.step == 0}
        self.report.num_commits += len(written)
        self.report.num_changed_commits += len(written - self._exact)
        self.report.num_missed_commits += len(self._exact - written)
        self._exact = None


def divergence(exact: NDArray[np.float64], cached: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(exact || cached) of each row of logits, in nats. exact, cached: (num_rows, vocabulary); (num_rows,)."""
    log_p, difference = _log_softmax(exact), _log_softmax(cached)
    np.subtract(log_p, difference, out=difference)
    difference *= np.exp(log_p, out=log_p)
    divergences: NDArray[np.float64] = np.maximum(np.sum(difference, axis=-1), 0.0)
    return divergences


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted: NDArray[np.float64] = logits - np.max(logits, axis=-1, keepdims=True)
    shifted -= np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))
    return shifted


def _most_likely(logits: NDArray[np.float64], rule: SamplingRule) -> NDArray[np.intp]:
    """The candidate of each row, without noise: (num_rows,)."""
    excluded = [token for token in (rule.suppressed_token, -1 if rule.propose_mask else rule.mask_id) if token >= 0]
    allowed = logits.copy()
    allowed[:, excluded] = -np.inf
    return np.asarray(allowed.argmax(axis=-1))


def _is_whole(spans: Sequence[QuerySpan], visible: Span) -> bool:
    return sum(map(len, spans)) == len(visible)


def _runs(positions: Sequence[int]) -> list[Span]:
    """Ascending positions as spans."""
    spans = []
    for _, group in groupby(enumerate(positions), key=lambda pair: pair[1] - pair[0]):
        run = [position for _, position in group]
        spans.append(Span(run[0], run[-1] + 1))
    return spans
