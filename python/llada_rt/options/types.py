"""The options of SamplingParams as type checkers and editors see them: names, aliases, and the types that are taken.

The meaning of an option, its default and its check are written once, at the fields of SamplingParams. A test holds the
names here equal to those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, SupportsFloat, SupportsIndex, TypedDict

Remasking = Literal["low_confidence", "random", "margin", "entropy"]
Cache = Literal["none", "prefix", "dual", "dual_compact", "vicinity", "interval", "dsb"]
BlockOrder = Literal["left_to_right", "confidence", "sliding", "sliding_greedy"]
Preset = Literal["reference", "quality", "balanced", "fast", "streaming"]


class SamplingOptions(TypedDict, total=False):
    """What SamplingParams takes by name."""

    gen_length: SupportsIndex
    max_tokens: SupportsIndex
    max_new_tokens: SupportsIndex
    max_completion_tokens: SupportsIndex
    canvas_length: SupportsIndex
    steps: SupportsIndex | None
    num_inference_steps: SupportsIndex | None
    denoising_steps: SupportsIndex | None
    max_denoising_steps: SupportsIndex | None
    block_length: SupportsIndex | None
    block_size: SupportsIndex | None
    adablock: SupportsFloat | None
    adablock_token: SupportsIndex | None
    block_order: BlockOrder
    suffix_window: SupportsIndex | None
    temperature: SupportsFloat
    temp: SupportsFloat
    remasking: Remasking
    remasking_strategy: Remasking
    alg: Remasking
    threshold: SupportsFloat | None
    confidence_threshold: SupportsFloat | None
    dynamic_threshold: SupportsFloat | None
    accept_threshold: SupportsFloat | None
    factor: SupportsFloat | None
    threshold_alpha: SupportsFloat
    frechet: SupportsFloat | None
    local_leap: SupportsFloat | None
    local_leap_threshold: SupportsFloat
    local_leap_radius: SupportsIndex
    entropy_bound: SupportsFloat | None
    eb_threshold: SupportsFloat | None
    cache: Cache
    use_cache: Cache
    audit: bool | SupportsIndex
    error_budget: SupportsFloat | None
    cfg_scale: SupportsFloat
    seed: SupportsIndex | None
    n: SupportsIndex
    num_return_sequences: SupportsIndex
    stop: str | Sequence[str]
    stop_token_ids: Sequence[SupportsIndex]
    include_stop_str_in_output: bool
    max_nfe: SupportsIndex | None
    timeout_s: SupportsFloat | None
    timeout: SupportsFloat | None
    deadline_s: SupportsFloat | None
    logits_eos_inf: bool
    confidence_eos_eot_inf: bool
    eos_early_stop: bool | None
    return_tokens: bool
    logprobs: SupportsIndex | None
    regex: str | None
    choice: Sequence[str]
    split_special_tokens: bool | None
    preset: Preset
