"""SamplingParams: how one request is decoded. Each option is written once, here; flags and `help` are made from it.

The words are LLaDA's, and names that other engines use are accepted as aliases. The class tells who wins where caller,
preset and model say different things.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Unpack

from .errors import InvalidRequestError
from .excerpt import excerpt_of
from .options import foreign
from .options.checks import (
    MAX_COUNT,
    MAX_SAMPLES,
    boolean,
    every,
    integer,
    num_logprobs,
    one_of,
    real,
    some_text,
    some_texts,
    stop_ids,
    stop_strings,
)
from .options.docstrings import with_options
from .options.precedence import (
    OF_A_RULE,
    PRESETS,
    RULES,
    expand,
    fit_details,
    fit_lengths,
    give_way,
    without_rules,
    without_subjects,
)
from .options.together import check_together
from .options.types import BlockOrder, Cache, Preset, Remasking, SamplingOptions


def _option(
    default: Any,
    check: Callable[[str, object], Any],
    text: str,
    *,
    aliases: tuple[str, ...] = (),
    optional: bool = False,
) -> Any:
    return field(default=default, metadata={"check": check, "help": text, "aliases": aliases, "optional": optional})


_COUNT = integer(1, MAX_COUNT, f"an integer from 1 to {MAX_COUNT}")
_SCALE = real("a number from 0 to 1e6", lambda v: 0 <= v <= 1e6)  # times a logit it stays finite in float32
_NOT_NEGATIVE = real("a finite number >= 0", lambda v: v >= 0)
_CONFIDENCE = real("a number above 0 and at most 1", lambda v: 0 < v <= 1)
_SHARE = real("a number from 0 to 1", lambda v: 0 <= v <= 1)


class _Said:
    """What the caller gave, and the model's defaults beneath (None: no engine has put the options over a model's)."""

    _given: Mapping[str, Any]
    _base: Mapping[str, Any] | None


@dataclass(frozen=True, init=False)
class SamplingParams(_Said):
    """Decoding options of one request; frozen, checked on construction, equal when their values are.

    Params are differences from the model's defaults: an engine puts them over what its model says (see `over`). An
    option is taken from the first of these who names it: the caller, the preset that the caller named, the model, the
    preset that the model named, the defaults below.

    What the caller gave is honoured, or refused by its name. What the caller did not give gives way:
    * A block length shrinks to fit, in the reference preset to a divisor. A block that was the whole response stays the
      whole response.
    * A number of steps keeps its share of the length, rounded up to fit the blocks.
    * Where two options exclude each other, the one that was not given goes: threshold, factor, frechet, local_leap and
      entropy_bound; remasking entropy and each of these but the last; regex and choice; either of these and block_order
      confidence; error_budget and audit 0.
    * What says more of a rule goes with it: threshold_alpha, local_leap_threshold, local_leap_radius and
      adablock_token. adablock goes where steps, regex, choice, suffix_window or another block_order are given.

    None, where an option may be None, is given like a value.

    Raises:
        InvalidRequestError: An option is unknown (the nearest is named), a value is out of range, an option is given
            together with its alias, or options exclude each other.
    """

    gen_length: int = _option(
        128,
        _COUNT,
        "Response positions on the canvas.",
        aliases=("max_tokens", "max_new_tokens", "max_completion_tokens", "canvas_length"),
    )
    steps: int | None = _option(
        None,
        _COUNT,
        "Denoising steps, spread over the blocks; by default one token a step (= gen_length). "
        "Only without threshold, factor, frechet, local_leap and entropy_bound.",
        aliases=("num_inference_steps", "denoising_steps", "max_denoising_steps"),
        optional=True,
    )
    block_length: int | None = _option(
        None,
        _COUNT,
        "Positions decoded together, from left to right; by default the whole response.",
        aliases=("block_size",),
        optional=True,
    )
    adablock: float | None = _option(
        None,
        _CONFIDENCE,
        "Let a block end after the most probable adablock_token within a quarter of the response, if it is at least so "
        "probable in the block's first step; without one it has block_length positions.",
        optional=True,
    )
    adablock_token: int | None = _option(
        None,
        integer(0, MAX_COUNT, "a token id"),
        "The token that ends a block, such as the newline (198 in LLaDA's vocabulary).",
        optional=True,
    )
    block_order: BlockOrder = _option(  # noqa: RUF009 (a dataclass field)
        "left_to_right",
        one_of(BlockOrder),
        "Which block comes next; confidence: that of the surest token of all, which is committed by one more step. "
        "sliding: the block begins with the first mask; sliding_greedy: and holds block_length masks.",
    )
    suffix_window: int | None = _option(
        None,
        _COUNT,
        "Masks that a block sees behind itself, beside the last one of the response. Memory and time then follow what "
        "is written, and gen_length is a cap. By default a block sees the whole response.",
        optional=True,
    )
    temperature: float = _option(
        0.0, _NOT_NEGATIVE, "Gumbel noise on the candidates; 0 takes the best.", aliases=("temp",)
    )
    remasking: Remasking = _option(  # noqa: RUF009 (a dataclass field)
        "low_confidence",
        one_of(Remasking),
        "Score that decides which candidates are committed.",
        aliases=("remasking_strategy", "alg"),
    )
    threshold: float | None = _option(
        None,
        _CONFIDENCE,
        "Commit every candidate with at least this confidence, the best one always.",
        aliases=("confidence_threshold", "dynamic_threshold", "accept_threshold"),
        optional=True,
    )
    factor: float | None = _option(
        None,
        real("a finite number above 0", lambda v: v > 0),
        "Commit the n best candidates with the largest n such that (n + 1)(1 - confidence of the n-th) < factor.",
        optional=True,
    )
    threshold_alpha: float = _option(
        0.0,
        _SHARE,
        "Let the threshold fall while the canvas fills, to threshold * (1 - alpha * (1 - r)); r is the share of masks "
        "in the block and after it.",
    )
    frechet: float | None = _option(
        None,
        _SHARE,
        "Commit the n best candidates with the largest n such that the sum of their confidences - (n - 1) - (1 - "
        "confidence of the n-th) > frechet, the best one always.",
        optional=True,
    )
    local_leap: float | None = _option(
        None,
        _CONFIDENCE,
        "Commit every candidate with at least this confidence (an anchor), and those near an anchor that reach "
        "local_leap_threshold; the best one always.",
        optional=True,
    )
    local_leap_threshold: float = _option(
        OF_A_RULE["local_leap_threshold"][1],
        _CONFIDENCE,
        "Confidence that is enough near an anchor; at most that of local_leap.",
    )
    local_leap_radius: int = _option(
        OF_A_RULE["local_leap_radius"][1], _COUNT, "How many positions from an anchor are near it."
    )
    entropy_bound: float | None = _option(
        None,
        _NOT_NEGATIVE,
        "Commit the n best candidates with the largest n such that the sum of their entropies, less the largest, is at "
        "most this (nats). Sets remasking=entropy unless that is given.",
        aliases=("eb_threshold",),
        optional=True,
    )
    cache: Cache = _option(  # noqa: RUF009 (a dataclass field)
        "none",
        one_of(Cache),
        "Key/value reuse between steps: none is exact, the others are approximate. A sliding block takes none or dsb.",
        aliases=("use_cache",),
    )
    audit: int = _option(
        0,
        every,
        "Run the exact forward beside every so many-th cached step and report how far the two are apart; 0: never. "
        "The text stays the same.",
    )
    error_budget: float | None = _option(
        None,
        _NOT_NEGATIVE,
        "Recompute the whole canvas where an audited step is further from the exact one than this (largest KL, nats). "
        "Sets audit=1 unless that is given.",
        optional=True,
    )
    cfg_scale: float = _option(0.0, _SCALE, "Classifier-free guidance; above 0 each step costs two forwards.")
    seed: int | None = _option(
        None,
        integer(0, 2**64 - 1, "an integer from 0 to 2**64 - 1"),
        "Seed of this request's noise; by default a fresh one, reported in the output.",
        optional=True,
    )
    n: int = _option(
        1,
        integer(1, MAX_SAMPLES, f"an integer from 1 to {MAX_SAMPLES}"),
        "Samples, each with a seed of its own (see seed_of).",
        aliases=("num_return_sequences",),
    )
    stop: tuple[str, ...] = _option((), stop_strings, "Texts that end the response, left out of it.")
    stop_token_ids: tuple[int, ...] = _option((), stop_ids, "Tokens that end the response, left out of it.")
    include_stop_str_in_output: bool = _option(False, boolean, "Keep the stop text or token that ended the response.")
    max_nfe: int | None = _option(None, _COUNT, "Forwards after which the response ends as it is.", optional=True)
    timeout_s: float | None = _option(
        None,
        real("a finite number above 0", lambda v: v > 0),
        "Seconds from the call after which the response ends as it is.",
        aliases=("timeout", "deadline_s"),
        optional=True,
    )
    logits_eos_inf: bool = _option(False, boolean, "Never propose the end-of-text token.")
    confidence_eos_eot_inf: bool = _option(
        False, boolean, "Leave end-of-text and end-of-turn out of the confidence, so that they are committed last."
    )
    eos_early_stop: bool = _option(
        None,
        boolean,
        "Skip the blocks after one that ends the text; on by default except in the reference preset.",
        optional=True,
    )
    return_tokens: bool = _option(False, boolean, "Report id, position, step and confidence of each token.")
    logprobs: int | None = _option(
        None,
        num_logprobs,
        "Report the log-probability each token had when it was committed, and so many of the most probable tokens that "
        "might have stood there, 0 to 20, with theirs.",
        optional=True,
    )
    regex: str | None = _option(
        None,
        some_text,
        "What the response must match in full (Python's syntax); written from left to right.",
        optional=True,
    )
    choice: tuple[str, ...] = _option((), some_texts, "The response must be one of these texts.")
    split_special_tokens: bool | None = _option(
        None,
        boolean,
        "Read the names of control tokens in texts (<|eot_id|>, the mask) as plain characters. By default so in "
        "messages, where the chat template's own are the tokens, and not in a prompt that is text.",
        optional=True,
    )
    preset: Preset = _option(  # noqa: RUF009 (a dataclass field)
        "reference",
        one_of(Preset),
        "reference = the published loop; quality = blocks of 32; balanced = + threshold 0.9, prefix cache; "
        "fast = + threshold 0.9, dual cache; streaming = fast + suffix_window 128.",
    )

    def __init__(self, **options: Unpack[SamplingOptions]) -> None:
        self._settle(_checked(_by_name(options)), None)

    def _settle(self, given: Mapping[str, Any], base: Mapping[str, Any] | None) -> None:
        """Fill the fields from what the caller gave and what a model says; both checked, by their own names."""
        chosen = give_way(given, base or {}) | dict(given)
        values: dict[str, Any] = {name: spec.default for name, spec in _FIELDS.items()}
        values |= expand(chosen) | chosen
        own = (base or {}).get("gen_length", _FIELDS["gen_length"].default)
        values |= fit_lengths(values, given, base or {}, own)
        if values["block_length"] is None and "suffix_window" not in given:
            values["suffix_window"] = None
        if values["eos_early_stop"] is None:
            values["eos_early_stop"] = PRESETS[values["preset"]]["eos_early_stop"]
        if values["error_budget"] is not None and "audit" not in chosen:
            values["audit"] = 1
        if values["entropy_bound"] is not None and "remasking" not in chosen:
            values["remasking"] = "entropy"
        values |= fit_details(values, given)
        for name, value in values.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_given", dict(given))
        object.__setattr__(self, "_base", None if base is None else dict(base))
        check_together(self)

    @property
    def given(self) -> Mapping[str, Any]:
        """The options the caller gave, by their own names; not what the model's defaults or a preset say.

        Returns:
            A read-only mapping from name to checked value.
        """
        return MappingProxyType(self._given)

    @property
    def chosen(self) -> Mapping[str, Any]:
        """The options given, and what the model's defaults say beside them; not what a preset says.

        Returns:
            A read-only mapping from name to checked value.
        """
        given = self.given
        return MappingProxyType(give_way(given, self._base or {}) | dict(given))

    def over(self, defaults: SamplingParams) -> SamplingParams:
        """These options over a model's defaults, as an engine takes them.

        Options that lie over some defaults already stay as they are, so `over(SamplingParams())` keeps those of the
        model out.

        Args:
            defaults: What the model says, `Engine.default_params`.

        Returns:
            Options that no engine changes any more.

        Raises:
            InvalidRequestError: The options and the defaults together exclude each other.
        """
        if self._base is not None:
            return self
        return _settled(self.given, defaults.chosen)

    def replace(self, **changes: Unpack[SamplingOptions]) -> SamplingParams:
        """A copy with some options changed, over the same defaults.

        A new preset also replaces what the old options said of its subjects; the rules threshold, factor, frechet,
        local_leap and entropy_bound replace each other.

        Args:
            **changes: Options and new values, as SamplingParams takes them.

        Returns:
            The copy; these options stay as they are.

        Raises:
            InvalidRequestError: As SamplingParams raises.
        """
        new = _checked(_by_name(changes))
        kept = dict(self.given)
        if "preset" in new:
            kept = without_subjects(kept, new["preset"])
        for rule in RULES:
            if new.get(rule) is not None:
                kept = without_rules(kept, rule)
        return _settled({**kept, **new}, self._base)

    __replace__ = replace  # copy.replace

    def without_defaults(self, *names: str) -> SamplingParams:
        """The same options over defaults that say nothing of some options.

        Args:
            *names: Options whose model defaults go. What the caller gave stays.

        Returns:
            The copy, or these options if the defaults say nothing of `names` already.
        """
        base = self._base
        if not base or not any(name in base for name in names):
            return self
        return _settled(self.given, {name: value for name, value in base.items() if name not in names})

    def seed_of(self, index: int) -> int:
        """Seed of one sample. A request with that seed and n = 1 gives the sample again.

        Args:
            index: Which of the `n` samples, from 0.

        Returns:
            `seed` for the first; each next one is 0x9E3779B97F4A7C15 further on, modulo 2**64.

        Raises:
            InvalidRequestError: The params have no seed.
        """
        if self.seed is None:
            raise InvalidRequestError("seed_of: expected params with a seed, got none", param="seed")
        return (self.seed + index * 0x9E3779B97F4A7C15) % 2**64

    def to_dict(self) -> dict[str, Any]:
        """Every option and its value, the preset expanded.

        Returns:
            Plain JSON values by name; a tuple is a list.
        """
        values = {name: getattr(self, name) for name in _FIELDS}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> SamplingParams:
        """The inverse of `to_dict`.

        Args:
            options: Values by name or alias. What is missing is not given.

        Returns:
            The params.

        Raises:
            InvalidRequestError: As SamplingParams raises, or `options` is no mapping from texts.
        """
        if not isinstance(options, Mapping):
            raise InvalidRequestError(f"params: expected an object, got {type(options).__name__}", param="params")
        for name in options:
            if not isinstance(name, str):
                raise InvalidRequestError(f"params: expected option names, got {excerpt_of(name)}", param="params")
        return cls(**options)


_FIELDS = {spec.name: spec for spec in fields(SamplingParams)}
ALIASES: Mapping[str, str] = MappingProxyType(
    {alias: name for name, spec in _FIELDS.items() for alias in spec.metadata["aliases"]}
)
SamplingParams.__doc__ = with_options(SamplingParams.__doc__, SamplingParams)
SamplingParams.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=spec.default, annotation=spec.type)
        for name, spec in _FIELDS.items()
    ]
)


def _by_name(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options under their own names; an unknown name, or two names for one option, is an error."""
    given: dict[str, Any] = {}
    said: dict[str, str] = {}
    for word, value in options.items():
        name = ALIASES.get(word, word)
        if word in foreign.PARAMS:
            raise InvalidRequestError(
                f"unknown option {excerpt_of(word)}", param=word, hint=f"it is {foreign.PARAMS[word]}"
            )
        if name not in _FIELDS:
            near = difflib.get_close_matches(word, [*_FIELDS, *ALIASES], n=1)
            raise InvalidRequestError(
                f"unknown option {excerpt_of(word)}", param=word, hint=f"did you mean {near[0]!r}?" if near else None
            )
        if name in said:
            raise InvalidRequestError(
                f"{said[name]!r} and {word!r} are two names for one option: expected one of them, got both", param=name
            )
        given[name], said[name] = value, word
    return given


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Each value as its option keeps it, or InvalidRequestError."""
    checks = {name: _FIELDS[name].metadata for name in given}
    return {
        name: value if value is None and checks[name]["optional"] else checks[name]["check"](name, value)
        for name, value in given.items()
    }


def _settled(given: Mapping[str, Any], base: Mapping[str, Any] | None) -> SamplingParams:
    params = object.__new__(SamplingParams)
    params._settle(given, base)
    return params
