"""Precedence: which option gives way where caller, preset and model name the same one, or two that exclude each other.

The functions work on mappings from an option's own name to its checked value. `SamplingParams` tells the rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from itertools import combinations
from types import MappingProxyType
from typing import Any

from .checks import MAX_COUNT

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "reference": {"eos_early_stop": False},
        "quality": {"block_length": 32, "eos_early_stop": True},
        "balanced": {"block_length": 32, "threshold": 0.9, "cache": "prefix", "eos_early_stop": True},
        "fast": {"block_length": 32, "threshold": 0.9, "cache": "dual", "eos_early_stop": True},
        "streaming": {
            "block_length": 32,
            "threshold": 0.9,
            "cache": "dual",
            "suffix_window": 128,
            "eos_early_stop": True,
        },
    }
)


# Options that each ask for a rule by which candidates are committed.
RULES = ("threshold", "factor", "frechet", "local_leap", "entropy_bound")
# Rules that compare the score with a probability.
OF_PROBABILITIES = ("threshold", "factor", "frechet", "local_leap")
# Options that say more of another one, which must be set, and what they are where it is not.
OF_A_RULE: Mapping[str, tuple[str, Any]] = MappingProxyType(
    {
        "threshold_alpha": ("threshold", 0.0),
        "local_leap_threshold": ("local_leap", 0.75),
        "local_leap_radius": ("local_leap", 4),
        "adablock_token": ("adablock", None),
    }
)


def _is_set(value: object) -> bool:
    return value is not None and value != ()


def _is(*words: object) -> Callable[[object], bool]:
    return lambda value: value in words


def _is_not(*words: object) -> Callable[[object], bool]:
    return lambda value: value not in words


NOT_SLIDING = ("left_to_right", "confidence")  # orders of blocks that stay where they are


# Options, each with the values meant, that cannot stand beside each other.
_EXCLUDE = (
    *(((one, _is_set), (other, _is_set)) for one, other in combinations(RULES, 2)),
    *(((rule, _is_set), ("remasking", _is("entropy"))) for rule in OF_PROBABILITIES),
    (("regex", _is_set), ("choice", _is_set)),
    (("regex", _is_set), ("block_order", _is_not("left_to_right"))),
    (("choice", _is_set), ("block_order", _is_not("left_to_right"))),
    (("suffix_window", _is_set), ("block_order", _is_not("left_to_right"))),
    (("suffix_window", _is_set), ("block_length", _is(None))),
    (("block_order", _is_not(*NOT_SLIDING)), ("cache", _is_not("none", "dsb"))),
    (("block_order", _is(*NOT_SLIDING)), ("cache", _is("dsb"))),
    (("error_budget", _is_set), ("audit", _is(0))),
    *((("adablock", _is_set), (name, _is_set)) for name in ("steps", "regex", "choice", "suffix_window")),
    (("adablock", _is_set), ("block_order", _is_not("left_to_right"))),
)


def _details(rules: Collection[str]) -> list[str]:
    """The options that say more of one of these."""
    return [name for name, (rule, _) in OF_A_RULE.items() if rule in rules]


def _less_excluded(weak: Mapping[str, Any], strong: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `weak` that can stand beside those of `strong`."""
    left = dict(weak)
    for pair in _EXCLUDE:
        for (name, holds), (other, meets) in (pair, pair[::-1]):
            if name in strong and holds(strong[name]) and other in left and meets(left[other]):
                del left[other]
    return left


def without_subjects(options: Mapping[str, Any], preset: str) -> dict[str, Any]:
    """The options that say nothing a preset newly named says: how many are committed, the cache, the window, the end of
    the text; the block length, if it says one.
    """
    subjects = {*RULES, *_details(RULES), "cache", "suffix_window", *PRESETS[preset]}
    if preset == "reference":
        subjects |= {"adablock", *_details(["adablock"])}
    return {name: value for name, value in options.items() if name not in subjects}


def without_rules(options: Mapping[str, Any], rule: str) -> dict[str, Any]:
    """The options that say nothing of another rule than this one."""
    others = [other for other in RULES if other != rule]
    return {name: value for name, value in options.items() if name not in {*others, *_details(others)}}


def give_way(given: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """What a model says, less what the caller says otherwise or what cannot stand beside it."""
    said, kept = dict(given), {name: value for name, value in base.items() if name not in given}
    if "preset" in given:
        kept = without_subjects(kept, given["preset"])
        said = expand(given) | said
    return _less_excluded(kept, said)


def expand(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What the preset sets, less what would contradict an explicit choice."""
    return _less_excluded(PRESETS[chosen.get("preset", "reference")], chosen)


def fit_details(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What says more of a rule, where it was not given: nothing without the rule, and nothing that contradicts it."""
    details = {
        name: default if values[rule] is None else values[name]
        for name, (rule, default) in OF_A_RULE.items()
        if name not in given
    }
    if values["local_leap"] is not None and "local_leap_threshold" in details:
        details["local_leap_threshold"] = min(details["local_leap_threshold"], values["local_leap"])
    return details


def fit_lengths(
    values: Mapping[str, Any], given: Mapping[str, Any], base: Mapping[str, Any], own: int
) -> dict[str, int | None]:
    """Block length and steps; those not given made to fit those that were. `own`: the length the model speaks of."""
    length, block, steps = values["gen_length"], values["block_length"], values["steps"]
    is_published = values["preset"] == "reference"
    if "block_length" not in given and block is not None:
        is_whole = block == own != length and block == base.get("block_length")
        block = None if is_whole else min(block, length)
        if block is not None and is_published:
            block = _dividing_block(length, block, given.get("steps"))
    if "steps" not in given and steps is not None:
        steps = None if steps == own != length else -(-steps * length // own)
        if steps is not None and is_published and block is not None:
            num_blocks = max(1, length // block)
            steps = -(-steps // num_blocks) * num_blocks
        if steps is not None and steps > MAX_COUNT:
            steps = None
    return {"block_length": block, "steps": steps}


def _dividing_block(length: int, most: int, steps: int | None) -> int:
    """The longest block of at most `most` positions that divides the length, and whose number divides the steps;
    else the shortest longer one. One block always does.
    """

    def fits(block: int) -> bool:
        return length % block == 0 and (steps is None or steps % (length // block) == 0)

    if fits(most):
        return most
    small = [number for number in range(1, math.isqrt(length) + 1) if length % number == 0]
    blocks = [block for block in {*small, *(length // number for number in small)} if fits(block)]
    return max((block for block in blocks if block <= most), default=min(blocks))
