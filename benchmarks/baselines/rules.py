"""Which candidates a step of the published loops commits: LLaDA's schedule, Fast-dLLM's threshold and factor.

A rule takes confidences (batch, rows), -inf where nothing may be committed, and returns bool (batch, rows).
"""

from collections.abc import Callable

import torch
from torch import Tensor

Rule = Callable[[Tensor], Tensor]


def top(count: int) -> Rule:
    """The `count` surest of each canvas."""

    def choose(confidence: Tensor) -> Tensor:
        chosen = torch.zeros(confidence.shape, dtype=torch.bool)
        return chosen.scatter_(1, confidence.topk(count).indices, True)

    return choose


def threshold(value: float) -> Rule:
    """All that are at least so sure, the surest one always."""
    return lambda confidence: ((confidence >= value) | top(1)(confidence)) & confidence.isfinite()


def factor(value: float) -> Rule:
    """The n surest with the largest n such that (n + 1)(1 - confidence of the n-th) < value, the surest one always."""

    def choose(confidence: Tensor) -> Tensor:
        ordered, places = confidence.sort(descending=True, stable=True)
        keep = torch.arange(2, confidence.shape[1] + 2) * (1 - ordered) < value
        keep[:, 0] = True
        keep = keep.cummin(1).values  # up to the first that is not sure enough
        return torch.zeros_like(keep).scatter_(1, places, keep) & confidence.isfinite()

    return choose


def schedule(num_masked: int, num_steps: int) -> list[int]:
    """How many tokens each step commits: the first ones take one more."""
    return [num_masked // num_steps + (step < num_masked % num_steps) for step in range(num_steps)]
