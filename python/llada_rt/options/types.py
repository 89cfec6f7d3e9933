"""The options of SamplingParams as type checkers and editors see them: names, aliases, and the types that are taken.

What an option means, its default and its check are written once, at the fields of SamplingParams; a test holds the
names here equal to those. `with_options` writes the options of a dataclass out for `help`.
"""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from collections.abc import Sequence
from typing import Any, Literal, SupportsFloat, SupportsIndex, TypedDict, get_args, get_origin, get_type_hints

Remasking = Literal["low_confidence", "random", "margin", "entropy"]
Cache = Literal["none", "prefix", "dual", "dual_compact", "vicinity", "interval"]
BlockOrder = Literal["left_to_right", "confidence"]
Preset = Literal["reference", "quality", "balanced", "fast"]


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
    block_order: BlockOrder
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


def with_options(doc: str | None, kind: type) -> str:
    """A docstring, and after it the options that are fields of the dataclass `kind`: of each its type, default, other
    names and meaning.
    """
    hints = get_type_hints(kind)
    lines = [inspect.cleandoc(doc or ""), "", "Options:"]
    for option in dataclasses.fields(kind):
        if "help" not in option.metadata:
            continue
        hint: Any = hints[option.name]
        shown = " | ".join(map(repr, get_args(hint))) if get_origin(hint) is Literal else str(option.type)
        aliases = option.metadata.get("aliases", ())
        also = f" (also {', '.join(aliases)})" if aliases else ""
        lines += _wrapped(f"{option.name}: {shown} = {option.default!r}{also}", 0)
        lines += _wrapped(option.metadata["help"], 4)
    return "\n".join(lines)


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text, 116, initial_indent=" " * indent, subsequent_indent=" " * (indent or 8), break_on_hyphens=False
    )
