"""Options that cannot stand beside each other: what a caller is told who gives both."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidRequestError
from .precedence import NOT_SLIDING, OF_A_RULE, OF_PROBABILITIES, RULES


def check_together(params: Any) -> None:
    """Raises InvalidRequestError for options that are right alone and not beside each other. params: SamplingParams."""
    _check_rule(params)
    if params.suffix_window is not None and params.block_order != "left_to_right":
        raise InvalidRequestError(
            f"suffix_window={params.suffix_window} and block_order={params.block_order} exclude each other: expected "
            "one of them",
            param="suffix_window",
        )
    if params.suffix_window is not None and params.block_length is None:
        raise InvalidRequestError(
            f"suffix_window={params.suffix_window} is what a block sees behind itself: expected block_length beside "
            "it, got none, and the whole response is one block",
            param="suffix_window",
        )
    _check_sliding(params)
    if params.regex is not None and params.choice:
        raise InvalidRequestError("regex and choice exclude each other: expected one of them", param="choice")
    if params.error_budget is not None and not params.audit:
        raise InvalidRequestError(
            f"error_budget={params.error_budget} needs audit: expected a number of steps, got 0", param="error_budget"
        )
    block = params.block_length
    if block is not None and block > params.gen_length:
        raise InvalidRequestError(
            f"block_length={block} is longer than gen_length={params.gen_length}: expected at most gen_length",
            param="block_length",
        )
    if params.adablock is not None:
        _check_adablock(params)
    if params.preset == "reference":
        _check_reference(params)


def _check_rule(params: Any) -> None:
    """How many a step commits is said once, and whole."""
    rules = [rule for rule in RULES if getattr(params, rule) is not None]
    if len(rules) > 1:
        said = " and ".join(f"{rule}={getattr(params, rule)}" for rule in rules)
        raise InvalidRequestError(f"{said} exclude each other: expected one of them", param=rules[-1])
    if rules and rules[0] in OF_PROBABILITIES and params.remasking == "entropy":
        raise InvalidRequestError(
            f"{rules[0]} needs a score between 0 and 1: expected remasking low_confidence, margin or random, "
            "got entropy",
            param=rules[0],
        )
    for name, (rule, default) in OF_A_RULE.items():
        if getattr(params, rule) is None and getattr(params, name) != default:
            raise InvalidRequestError(
                f"{name}={getattr(params, name)} says more of {rule}: expected {rule} beside it, got none", param=name
            )
    if params.local_leap is not None and params.local_leap_threshold > params.local_leap:
        raise InvalidRequestError(
            f"local_leap_threshold={params.local_leap_threshold}: expected at most local_leap={params.local_leap}, "
            "because what is near an anchor needs less",
            param="local_leap_threshold",
        )


def _check_adablock(params: Any) -> None:
    if params.adablock_token is None:
        raise InvalidRequestError(
            f"adablock={params.adablock} needs adablock_token: expected the id of the token that ends a block, got "
            "none",
            param="adablock",
        )
    others = {"steps": None, "regex": None, "choice": (), "suffix_window": None, "block_order": "left_to_right"}
    for name, value in others.items():
        if getattr(params, name) != value:
            raise InvalidRequestError(
                f"adablock={params.adablock} and {name}={getattr(params, name)!r} exclude each other: expected one of "
                "them",
                param=name,
            )
    if params.preset == "reference":
        raise InvalidRequestError(
            "the reference preset: expected no adablock, because the published loop's blocks are all alike",
            param="adablock",
            hint="preset='quality' takes it",
        )


def _check_sliding(params: Any) -> None:
    is_sliding = params.block_order not in NOT_SLIDING
    if is_sliding != (params.cache == "dsb") and params.cache != "none":
        expected = "none or dsb" if is_sliding else "block_order sliding or sliding_greedy"
        raise InvalidRequestError(
            f"block_order={params.block_order} and cache={params.cache} exclude each other: expected {expected}",
            param="cache",
        )
    if is_sliding and params.preset == "reference":
        raise InvalidRequestError(
            f"the reference preset: expected blocks that stay where they are, got block_order={params.block_order}",
            param="block_order",
            hint="preset='quality'",
        )


def _check_reference(params: Any) -> None:
    length = params.gen_length
    block = params.block_length or length
    steps = params.steps or length
    if length % block:
        raise InvalidRequestError(
            f"the reference preset: expected gen_length to be a multiple of block_length, got gen_length={length}, "
            f"block_length={block}",
            param="block_length",
            hint="preset='quality' accepts any block_length",
        )
    if steps % (length // block):
        raise InvalidRequestError(
            f"the reference preset: expected steps to be a multiple of the number of blocks, got steps={steps}, "
            f"gen_length={length} / block_length={block} = {length // block} blocks",
            param="steps",
            hint="preset='quality' accepts any steps",
        )
