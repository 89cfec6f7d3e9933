"""SamplingParams: how one request is decoded. Each option is written once, here; flags and docs are made from it.

The words are LLaDA's; names used by other engines are accepted as aliases. What stands where several say something is
written at `SamplingParams`.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal, get_args

from . import foreign
from .errors import InvalidRequestError

Remasking = Literal["low_confidence", "random", "margin", "entropy"]
Cache = Literal["none", "prefix", "dual", "dual_compact", "vicinity", "interval"]
BlockOrder = Literal["left_to_right", "confidence"]
Preset = Literal["reference", "quality", "balanced", "fast"]

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "reference": {"eos_early_stop": False},
        "quality": {"block_length": 32, "eos_early_stop": True},
        "balanced": {"block_length": 32, "threshold": 0.9, "cache": "prefix", "eos_early_stop": True},
        "fast": {"block_length": 32, "threshold": 0.9, "cache": "dual", "eos_early_stop": True},
    }
)


# Of one request.
MAX_SAMPLES = 1024
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_STOP_IDS = 64


def _invalid(name: str, expected: str, got: object) -> InvalidRequestError:
    shown = repr(got)
    return InvalidRequestError(
        f"{name}: expected {expected}, got {shown if len(shown) <= 80 else shown[:77] + '...'}", param=name
    )


def _integer(low: int, high: int, says: str) -> Callable[[str, object], int]:
    def check(name: str, value: object) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise _invalid(name, says, value)
        number = int(value.__index__())
        if not low <= number <= high:
            raise _invalid(name, says, value)
        return number

    return check


def _real(says: str, holds: Callable[[float], bool]) -> Callable[[str, object], float]:
    def check(name: str, value: object) -> float:
        if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
            raise _invalid(name, says, value)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise _invalid(name, says, value) from None
        if not (math.isfinite(number) and holds(number)):
            raise _invalid(name, says, value)
        return number

    return check


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool) and type(value).__name__ not in ("bool_", "bool"):
        raise _invalid(name, "True or False", value)
    return bool(value)


def _every(name: str, value: object) -> int:
    """A number of steps; True is every one, False none."""
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return int(bool(value))
    return _integer(0, _MAX_COUNT, "True, False or a number of steps")(name, value)


def _choice(kind: Any) -> Callable[[str, object], str]:
    choices: tuple[str, ...] = get_args(kind)

    def check(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise _invalid(name, "one of " + ", ".join(choices), value)
        return value

    return check


def _words(name: str, value: object) -> tuple[str, ...]:
    """Stop strings; one alone may come without its list."""
    says = f"at most {MAX_STOPS} texts of 1 to {MAX_STOP_CHARS} characters"
    words = (value,) if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or len(words) > MAX_STOPS:
        raise _invalid(name, says, value)
    for word in words:
        if not isinstance(word, str) or not 1 <= len(word) <= MAX_STOP_CHARS:
            raise _invalid(name, says, word)
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise _invalid(name, "text without half characters", word)
    return tuple(words)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _invalid(name, "a text", value)
    return value


def _texts(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) and text for text in value):
        raise _invalid(name, "a list of texts", value)
    return tuple(value)


def _ids(name: str, value: object) -> tuple[int, ...]:
    says = f"at most {MAX_STOP_IDS} token ids"
    if hasattr(value, "tolist"):  # a numpy array
        value = value.tolist()
    if not isinstance(value, (list, tuple)) or len(value) > MAX_STOP_IDS:
        raise _invalid(name, says, value)
    return tuple(_integer(0, _MAX_COUNT, says)(name, token) for token in value)


def _option(
    default: Any,
    check: Callable[[str, object], Any],
    text: str,
    *,
    aliases: tuple[str, ...] = (),
    optional: bool = False,
) -> Any:
    return field(default=default, metadata={"check": check, "help": text, "aliases": aliases, "optional": optional})


# Larger than any context; keeps sums of lengths far from the edges of 64-bit integers.
_MAX_COUNT = 2**31 - 1
_COUNT = _integer(1, _MAX_COUNT, f"an integer from 1 to {_MAX_COUNT}")
_NOT_NEGATIVE = _real("a finite number >= 0", lambda v: v >= 0)


@dataclass(frozen=True, init=False)
class SamplingParams:
    """Decoding options of one request; frozen, checked on construction, equal when their values are.

    They are differences from the model's defaults: an engine puts them over what its model says (see `over`). Whoever
    says an option: first the caller, then the preset the caller named, then the model, then the preset the model named,
    last the defaults below. What the caller gave is honoured or refused by its name. What the caller did not give gives
    way to it: a block length shrinks to fit (in the reference preset to a divisor), or becomes the whole response where
    it was that; a number of steps keeps its share of the length, rounded up to fit the blocks; of options that exclude
    each other (threshold, factor and remasking entropy; regex and choice; these two and block_order confidence;
    error_budget and audit 0) the one not given goes. None, where an option may be None, is given like a value.

    Raises InvalidRequestError for an unknown option (naming the nearest), a value out of range, an option given
    together with its alias, or options that exclude each other.
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
        "Not used with threshold or factor.",
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
    block_order: BlockOrder = _option(  # noqa: RUF009 (a dataclass field)
        "left_to_right",
        _choice(BlockOrder),
        "Which block comes next; confidence: that of the surest token of all, which is committed by one more step.",
    )
    temperature: float = _option(
        0.0, _NOT_NEGATIVE, "Gumbel noise on the candidates; 0 takes the best.", aliases=("temp",)
    )
    remasking: Remasking = _option(  # noqa: RUF009 (a dataclass field)
        "low_confidence",
        _choice(Remasking),
        "Score that decides which candidates are committed.",
        aliases=("remasking_strategy", "alg"),
    )
    threshold: float | None = _option(
        None,
        _real("a number above 0 and at most 1", lambda v: 0 < v <= 1),
        "Commit every candidate with at least this confidence, the best one always.",
        aliases=("confidence_threshold", "dynamic_threshold", "accept_threshold"),
        optional=True,
    )
    factor: float | None = _option(
        None,
        _real("a finite number above 0", lambda v: v > 0),
        "Commit the n best candidates with the largest n such that (n + 1)(1 - confidence of the n-th) < factor.",
        optional=True,
    )
    cache: Cache = _option(  # noqa: RUF009 (a dataclass field)
        "none",
        _choice(Cache),
        "Key/value reuse between steps: none is exact, the others are approximate.",
        aliases=("use_cache",),
    )
    audit: int = _option(
        0,
        _every,
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
    cfg_scale: float = _option(0.0, _NOT_NEGATIVE, "Classifier-free guidance; above 0 each step costs two forwards.")
    seed: int | None = _option(
        None,
        _integer(0, 2**64 - 1, "an integer from 0 to 2**64 - 1"),
        "Seed of this request's noise; by default a fresh one, reported in the output.",
        optional=True,
    )
    n: int = _option(
        1,
        _integer(1, MAX_SAMPLES, f"an integer from 1 to {MAX_SAMPLES}"),
        "Samples, each with a seed of its own (see seed_of).",
        aliases=("num_return_sequences",),
    )
    stop: tuple[str, ...] = _option((), _words, "Texts that end the response, left out of it.")
    stop_token_ids: tuple[int, ...] = _option((), _ids, "Tokens that end the response, left out of it.")
    include_stop_str_in_output: bool = _option(False, _boolean, "Keep the stop text or token that ended the response.")
    max_nfe: int | None = _option(None, _COUNT, "Forwards after which the response ends as it is.", optional=True)
    timeout_s: float | None = _option(
        None,
        _real("a finite number above 0", lambda v: v > 0),
        "Seconds from the call after which the response ends as it is.",
        aliases=("timeout", "deadline_s"),
        optional=True,
    )
    logits_eos_inf: bool = _option(False, _boolean, "Never propose the end-of-text token.")
    confidence_eos_eot_inf: bool = _option(
        False, _boolean, "Leave end-of-text and end-of-turn out of the confidence, so that they are committed last."
    )
    eos_early_stop: bool = _option(
        None,
        _boolean,
        "Skip the blocks after one that ends the text; on by default except in the reference preset.",
        optional=True,
    )
    return_tokens: bool = _option(False, _boolean, "Report id, position, step and confidence of each token.")
    logprobs: bool = _option(False, _boolean, "Report the log-probability each token had when it was committed.")
    regex: str | None = _option(
        None,
        _text,
        "What the response must match in full (Python's syntax); written from left to right.",
        optional=True,
    )
    choice: tuple[str, ...] = _option((), _texts, "The response must be one of these texts.")
    preset: Preset = _option(  # noqa: RUF009 (a dataclass field)
        "reference",
        _choice(Preset),
        "reference = the published loop; quality = blocks of 32; balanced = + threshold 0.9, prefix cache; "
        "fast = + threshold 0.9, dual cache.",
    )

    def __init__(self, **options: Any) -> None:
        self._settle(_checked(_by_name(options)), None)

    def _settle(self, given: Mapping[str, Any], base: Mapping[str, Any] | None) -> None:
        """Fill the fields from what the caller gave and what a model says; both checked, by their own names."""
        chosen = _give_way(given, base or {}) | dict(given)
        values: dict[str, Any] = {name: spec.default for name, spec in _FIELDS.items()}
        values |= _expand(chosen) | chosen
        values |= _fit_lengths(values, given, base or {})
        if values["eos_early_stop"] is None:
            values["eos_early_stop"] = PRESETS[values["preset"]]["eos_early_stop"]
        if values["error_budget"] is not None and "audit" not in chosen:
            values["audit"] = 1
        for name, value in values.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_given", dict(given))
        object.__setattr__(self, "_base", None if base is None else dict(base))
        self._check_together()

    def _check_together(self) -> None:
        if self.threshold is not None and self.factor is not None:
            raise InvalidRequestError(
                f"threshold={self.threshold} and factor={self.factor} exclude each other: expected one of them",
                param="factor",
            )
        parallel = "threshold" if self.threshold is not None else "factor" if self.factor is not None else None
        if parallel and self.remasking == "entropy":
            raise InvalidRequestError(
                f"{parallel} needs a score between 0 and 1: expected remasking low_confidence, margin or random, "
                "got entropy",
                param=parallel,
            )
        if self.regex is not None and self.choice:
            raise InvalidRequestError("regex and choice exclude each other: expected one of them", param="choice")
        if self.error_budget is not None and not self.audit:
            raise InvalidRequestError(
                f"error_budget={self.error_budget} needs audit: expected a number of steps, got 0", param="error_budget"
            )
        block = self.block_length
        if block is not None and block > self.gen_length:
            raise InvalidRequestError(
                f"block_length={block} is longer than gen_length={self.gen_length}: expected at most gen_length",
                param="block_length",
            )
        if self.preset == "reference":
            self._check_reference()

    def _check_reference(self) -> None:
        length = self.gen_length
        block = self.block_length or length
        steps = self.steps or length
        if length % block:
            raise InvalidRequestError(
                f"the reference preset needs gen_length to be a multiple of block_length: got gen_length={length}, "
                f"block_length={block}",
                param="block_length",
                hint="preset='quality' accepts any block_length",
            )
        if steps % (length // block):
            raise InvalidRequestError(
                f"the reference preset needs steps to be a multiple of the number of blocks: got steps={steps}, "
                f"gen_length={length} / block_length={block} = {length // block} blocks",
                param="steps",
                hint="preset='quality' accepts any steps",
            )

    @property
    def given(self) -> Mapping[str, Any]:
        """The options the caller gave, by their own names; not what the model's defaults or a preset say."""
        return MappingProxyType(self._given)  # type: ignore[attr-defined]

    @property
    def chosen(self) -> Mapping[str, Any]:
        """The options given, and what the model's defaults say beside them; not what a preset says."""
        given = self.given
        return MappingProxyType(_give_way(given, self._base or {}) | dict(given))  # type: ignore[attr-defined]

    def over(self, defaults: SamplingParams) -> SamplingParams:
        """These options over a model's defaults, as an engine takes them. Options that lie over some defaults already
        stay as they are, so `over(SamplingParams())` keeps those of the model out.
        """
        if self._base is not None:  # type: ignore[attr-defined]
            return self
        return _settled(self.given, defaults.chosen)

    def replace(self, **changes: Any) -> SamplingParams:
        """A copy with some options changed, over the same defaults. A new preset also replaces what the old options
        said of its subjects, threshold and factor each other.
        """
        changes = _checked(_by_name(changes))
        kept = dict(self.given)
        if "preset" in changes:
            kept = _without_subjects(kept, changes["preset"])
        if changes.get("threshold") is not None:
            kept.pop("factor", None)
        if changes.get("factor") is not None:
            kept.pop("threshold", None)
        return _settled({**kept, **changes}, self._base)  # type: ignore[attr-defined]

    __replace__ = replace  # copy.replace

    def without_defaults(self, *names: str) -> SamplingParams:
        """The same options over defaults that say nothing of `names`."""
        base = self._base  # type: ignore[attr-defined]
        if not base or not any(name in base for name in names):
            return self
        return _settled(self.given, {name: value for name, value in base.items() if name not in names})

    def seed_of(self, index: int) -> int:
        """Seed of sample `index`: `seed` is that of the first, and each next one is 0x9E3779B97F4A7C15 further on
        (modulo 2**64). A request with that seed and n = 1 gives the sample again.
        """
        if self.seed is None:
            raise InvalidRequestError("seed_of: expected params with a seed, got none", param="seed")
        return (self.seed + index * 0x9E3779B97F4A7C15) % 2**64

    def to_dict(self) -> dict[str, Any]:
        """Every option and its value, the preset expanded; plain JSON values."""
        values = {name: getattr(self, name) for name in _FIELDS}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> SamplingParams:
        """The inverse of `to_dict`; accepts aliases and leaves out what is missing."""
        if not isinstance(options, Mapping):
            raise InvalidRequestError(f"params: expected an object, got {type(options).__name__}", param="params")
        for name in options:
            if not isinstance(name, str):
                raise InvalidRequestError(f"params: expected option names, got {name!r}", param="params")
        return cls(**options)


_FIELDS = {spec.name: spec for spec in fields(SamplingParams)}
ALIASES: Mapping[str, str] = MappingProxyType(
    {alias: name for name, spec in _FIELDS.items() for alias in spec.metadata["aliases"]}
)
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
            raise InvalidRequestError(f"unknown option {word!r}", param=word, hint=f"it is {foreign.PARAMS[word]}")
        if name not in _FIELDS:
            near = difflib.get_close_matches(word, [*_FIELDS, *ALIASES], n=1)
            raise InvalidRequestError(
                f"unknown option {word!r}", param=word, hint=f"did you mean {near[0]!r}?" if near else None
            )
        if name in said:
            raise InvalidRequestError(f"{said[name]!r} and {word!r} are two names for one option: give one", param=name)
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


def _is_set(value: object) -> bool:
    return value is not None and value != ()


def _is(word: object) -> Callable[[object], bool]:
    return lambda value: value == word


# Options, each with the values meant, that cannot stand beside each other.
_EXCLUDE = (
    (("threshold", _is_set), ("factor", _is_set)),
    (("threshold", _is_set), ("remasking", _is("entropy"))),
    (("factor", _is_set), ("remasking", _is("entropy"))),
    (("regex", _is_set), ("choice", _is_set)),
    (("regex", _is_set), ("block_order", _is("confidence"))),
    (("choice", _is_set), ("block_order", _is("confidence"))),
    (("error_budget", _is_set), ("audit", _is(0))),
)


def _less_excluded(weak: Mapping[str, Any], strong: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `weak` that can stand beside those of `strong`."""
    left = dict(weak)
    for pair in _EXCLUDE:
        for (name, holds), (other, meets) in (pair, pair[::-1]):
            if name in strong and holds(strong[name]) and other in left and meets(left[other]):
                del left[other]
    return left


def _without_subjects(options: Mapping[str, Any], preset: str) -> dict[str, Any]:
    """The options that say nothing a preset newly named says: how many are committed, the cache, the end of the text;
    the block length, if it says one.
    """
    subjects = {"threshold", "factor", "cache", *PRESETS[preset]}
    return {name: value for name, value in options.items() if name not in subjects}


def _give_way(given: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """What a model says, less what the caller says otherwise or what cannot stand beside it."""
    said, kept = dict(given), {name: value for name, value in base.items() if name not in given}
    if "preset" in given:
        kept = _without_subjects(kept, given["preset"])
        said = _expand(given) | said
    return _less_excluded(kept, said)


def _expand(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What the preset sets, less what would contradict an explicit choice."""
    return _less_excluded(PRESETS[chosen.get("preset", "reference")], chosen)


def _fit_lengths(values: Mapping[str, Any], given: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, int | None]:
    """Block length and steps; those not given made to fit those that were."""
    length, block, steps = values["gen_length"], values["block_length"], values["steps"]
    own = base.get("gen_length", _FIELDS["gen_length"].default)  # the length that the model speaks of
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
        if steps is not None and steps > _MAX_COUNT:
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
