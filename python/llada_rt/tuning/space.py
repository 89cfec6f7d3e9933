"""The settings that are compared: every combination of the axes below. A line adds a choice to an axis, or an axis."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidRequestError, LladaRtError
from ..excerpt import excerpt_of
from ..params import ALIASES, SamplingParams

Options = Mapping[str, Any]  # of SamplingParams, by their own names

DECODERS: tuple[Options, ...] = (
    {},  # one token a step
    {"threshold": 0.95},
    {"threshold": 0.9},
    {"threshold": 0.8},
    {"threshold": 0.7},
    {"threshold": 0.5},
    {"factor": 0.5},
    {"factor": 1.0},
    {"frechet": 0.25},
    {"local_leap": 0.9},
    {"entropy_bound": 0.1},
    {"threshold": 0.9, "threshold_alpha": 0.3},
)
CACHES: tuple[Options, ...] = (
    *({"cache": name} for name in ("none", "prefix", "dual", "dual_compact")),
    {"cache": "dual", "suffix_window": 128},
    {"cache": "dsb", "block_order": "sliding"},
    {"cache": "dsb", "block_order": "sliding_greedy"},
)
BLOCKS: tuple[Options, ...] = tuple({"block_length": length} for length in (16, 32, 64, None))
AXES: tuple[tuple[Options, ...], ...] = (DECODERS, CACHES, BLOCKS)

# What every setting says. A setting names `steps` because the model's own number would cut the schedule short.
COMMON: Options = {"preset": "quality", "steps": None}

# Options that are the question's and not the setting's: the caller may give them.
OPEN = (
    "gen_length",
    "temperature",
    "seed",
    "cfg_scale",
    "stop",
    "stop_token_ids",
    "include_stop_str_in_output",
    "logits_eos_inf",
    "confidence_eos_eot_inf",
    "regex",
    "choice",
    "split_special_tokens",
)


@dataclass(frozen=True, slots=True)
class Setting:
    """Options of one way to decode. `key` is the same for the same options, in any order."""

    name: str
    options: Options

    @property
    def key(self) -> str:
        return json.dumps(dict(self.options), sort_keys=True)

    def params(self, own: Options, length: int) -> SamplingParams:
        """For a question with options of its own; `length`: positions of its answer, over which no block may reach."""
        options = dict(self.options)
        if options.get("block_length") is not None:
            options["block_length"] = min(options["block_length"], length)
        return SamplingParams(**{**own, **options})


EXACT = Setting("exact", {**COMMON, "cache": "none"})


def settings_over(axes: Sequence[Sequence[Options]], lengths: Iterable[int], defaults: SamplingParams) -> list[Setting]:
    """Every combination of the axes that decodes answers of these lengths in a way of its own.

    Fast-dLLM's settings come first. The others come in an order that is mixed and always the same, so that a budget
    which ends among them has seen something of every axis.
    """
    lengths = sorted(set(lengths))
    combined = [dict(itertools.chain(*(choice.items() for choice in choices))) for choices in itertools.product(*axes)]
    random.Random(0).shuffle(combined)
    combined.sort(key=lambda options: options.get("threshold") != 0.9 or options.get("block_length") != 32)

    def ways(setting: Setting) -> str:
        """The same for settings that decode alike, whatever they are called."""
        resolved = [(setting.params({"gen_length": length}, length).over(defaults), length) for length in lengths]
        return json.dumps(
            [
                one.to_dict()
                | {"block_length": one.block_length or length}
                | ({"suffix_window": None} if one.suffix_window is not None and one.suffix_window >= length else {})
                for one, length in resolved
            ]
        )

    seen = {ways(EXACT)}
    settings = []
    for options in combined:
        block = options.get("block_length")
        if block is not None:  # named as it is asked: no block reaches over an answer
            options = {**options, "block_length": min(block, lengths[-1])}
        setting = Setting(name_of(options), {**COMMON, **options})
        try:
            alike = ways(setting)
        except InvalidRequestError:  # choices that cannot stand beside each other
            continue
        if alike not in seen:
            seen.add(alike)
            settings.append(setting)
    return settings


def settings_of(given: object) -> list[Setting]:
    """The caller's own settings, each a mapping from option to value."""
    if not isinstance(given, (list, tuple)) or not given:
        raise InvalidRequestError(
            f"settings: expected a list of mappings from option to value, got {excerpt_of(given)}", param="settings"
        )
    settings: dict[str, Setting] = {}
    for index, options in enumerate(given):
        try:
            chosen = _checked(options)
        except LladaRtError as error:
            raise error.within(f"settings[{index}]") from error
        strange = [name for name in chosen if name in OPEN or name in ("n", "timeout_s", "max_nfe")]
        if strange:
            raise InvalidRequestError(
                f"settings[{index}]: expected options that say how a text is decoded, got {strange[0]}",
                param=strange[0],
                hint="what all settings have in common is given as params",
            )
        setting = Setting(name_of(options), {**COMMON, **chosen})
        if setting.key != EXACT.key:
            settings.setdefault(setting.key, setting)
    if not settings:
        raise InvalidRequestError(
            "settings: expected at least one beside the exact decoder, got that one alone", param="settings"
        )
    return list(settings.values())


def _checked(options: object) -> dict[str, Any]:
    """The options by their own names. A block may be longer than answers are by default."""
    if not isinstance(options, Mapping):
        raise InvalidRequestError(
            f"expected a mapping from option to value, got {excerpt_of(options)}", param="settings"
        )
    own = {ALIASES.get(name, name) for name in options}
    blocks = [value for name, value in options.items() if ALIASES.get(name, name) == "block_length"]
    room = {"gen_length": blocks[0]} if blocks and isinstance(blocks[0], int) and "gen_length" not in own else {}
    given = SamplingParams.from_dict({**room, **options}).given
    return {name: value for name, value in given.items() if name in own}


def name_of(options: Options) -> str:
    """ "threshold=0.9 cache=dual block_length=32"."""
    words = [
        f"{name}={'whole' if name == 'block_length' and value is None else value}" for name, value in options.items()
    ]
    return " ".join(words) or "one token a step"
