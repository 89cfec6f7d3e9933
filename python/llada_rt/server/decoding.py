"""From the fields of a body to SamplingParams. Each is honoured or refused by its name.

Fields of other servers that ask for nothing (top_p = 1, tools = []) pass; with another value they are refused with the
reason. Labels of the caller's (user, metadata) pass, as nothing is kept of them. What nobody knows is refused, or is
ignored and told, as the setting `unknown_fields` says. null is None for an option that may be None, else nothing.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidRequestError
from ..excerpt import excerpt, excerpt_of
from ..options import foreign
from ..params import ALIASES, SamplingParams
from .errors import UnknownParameterError, UnsupportedParameterError
from .json_schema import regex_of_schema
from .protocol import StreamOptions
from .settings import ServerSettings

OPTIONS = {spec.name: spec for spec in dataclasses.fields(SamplingParams)}
LABELS = {"user", "metadata", "safety_identifier", "prompt_cache_key"}

# Values that ask for nothing.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "typical_p": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "min_tokens": (0,),
    "logit_bias": ({},),
    "bad_words": ([],),
    "best_of": (1,),
    "num_beams": (1,),
    "use_beam_search": (False,),
    "early_stopping": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "echo": (False,),
    "ignore_eos": (False,),
    "skip_special_tokens": (True,),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "modalities": (["text"],),
    "truncation": ("disabled",),
    "background": (False,),
    "response_format": ({"type": "text"},),
    "stream_mode": ("append",),
}

# Known to OpenAI's clients, and what is said of them with another value. Each sentence goes on from "'store' is".
_MORE_FOREIGN: Mapping[str, str] = {
    **dict.fromkeys(("store", "previous_response_id", "conversation"), "not supported, because nothing is kept"),
    "background": "not supported, because an answer is written while its caller waits",
    "service_tier": "not supported, because there is one",
    **dict.fromkeys(("modalities", "audio"), "not supported, because the models read and write text"),
    "prediction": "not supported here; /v1/edit rewrites stretches of a given text",
    **dict.fromkeys(
        ("reasoning_effort", "reasoning", "verbosity"), "not supported, because the models are not trained for it"
    ),
    **dict.fromkeys(("web_search_options", "max_tool_calls"), "not supported, because there are no tools"),
    "truncation": "not supported, because nothing is cut silently",
    "prompt_cache_retention": "not supported, because no prompt is kept",
    **dict.fromkeys(("logprobs", "top_logprobs"), "no field of this request"),
    "response_format": "no field of this request; regex and choice are options of each hole",
    "stream_mode": "no field of this request",
    "vllm_xargs": "not supported: each option is a field of its own",
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a body says of decoding."""

    params: SamplingParams
    ignored: tuple[str, ...]  # unknown fields


def read_options(given: Mapping[str, Any], more: Mapping[str, Any], settings: ServerSettings) -> Chosen:
    """`given`: the further fields of the body. `more`: options that fields of its own say; None: they say nothing."""
    options = {name: value for name, value in more.items() if value is not None}
    ignored = []
    for word, value in given.items():
        name = ALIASES.get(word, word)
        if name in OPTIONS:
            if value is not None or OPTIONS[name].metadata["optional"]:
                if word in options:
                    raise InvalidRequestError(f"{word}: is given twice, once by another field", param=word)
                options[word] = value
        elif word in LABELS:
            continue
        elif word in NEUTRAL or word in foreign.PARAMS or word in _MORE_FOREIGN:
            check_neutral(word, value)
        else:
            if settings.unknown_fields == "refuse":
                raise _unknown(word)
            ignored.append(excerpt(word, 40))
    return Chosen(_within_limits(SamplingParams(**options), settings), tuple(ignored))


def check_neutral(word: str, value: object) -> None:
    """Raises UnsupportedParameterError unless the value asks for nothing."""
    if value is None or any(_same(value, each) for each in NEUTRAL.get(word, ())):
        return
    reason = foreign.PARAMS.get(word) or _MORE_FOREIGN[word]
    raise UnsupportedParameterError(f"{word}: {excerpt_of(value, 40)} was asked for, and it is {reason}", param=word)


def _same(value: object, neutral: object) -> bool:
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _unknown(word: str) -> UnknownParameterError:
    near = difflib.get_close_matches(word, [*OPTIONS, *ALIASES], n=1)
    return UnknownParameterError(
        f"unknown field {excerpt_of(word)}",
        param=excerpt(word, 40),
        hint=f"did you mean {near[0]!r}?" if near else None,
    )


def _within_limits(params: SamplingParams, settings: ServerSettings) -> SamplingParams:
    if params.n > settings.max_n:
        raise InvalidRequestError(f"n: expected at most {settings.max_n} samples, got {params.n}", param="n")
    if params.timeout_s is None:
        return params.replace(timeout_s=settings.request_timeout)
    if params.timeout_s > settings.request_timeout:
        raise InvalidRequestError(
            f"timeout_s: expected at most {settings.request_timeout:g} seconds, got {params.timeout_s:g}",
            param="timeout_s",
        )
    return params


def check_stream(stream: bool | None, options: StreamOptions | None, mode: str | None) -> None:
    """Raises for what is said of a stream where there is none, and for what ours do not do."""
    for name, value in (("stream_options", options), ("stream_mode", mode)):
        if value is not None and not stream:
            raise InvalidRequestError(f"{name}: expected stream = true beside it", param=name)
    if options is not None and options.include_obfuscation:
        raise UnsupportedParameterError(
            "stream_options.include_obfuscation: is not supported, because chunks are not padded",
            param="stream_options.include_obfuscation",
        )


def format_options(response_format: object, param: str = "response_format") -> dict[str, Any]:
    """What `response_format` says, as regex or choice."""
    if response_format is None:
        return {}
    given = response_format if isinstance(response_format, Mapping) else {}
    kind = given.get("type")
    if kind == "text":
        return {}
    if kind == "json_schema":
        named = given.get("json_schema", given)  # a chat has the schema below it, a response beside the type
        schema = named.get("schema") if isinstance(named, Mapping) else None
        if schema is None:
            raise InvalidRequestError(f"{param}: expected json_schema with a schema, got none", param=param)
        return {"regex": regex_of_schema(schema, param)}
    if kind in ("regex", "choice"):
        if given.get(kind) is None:
            raise InvalidRequestError(f"{param}: expected {kind} beside its type, got none", param=param)
        return {kind: given[kind]}
    if kind == "json_object":
        raise UnsupportedParameterError(
            f"{param}: json_object is not supported, because any JSON is no regular language",
            param=param,
            hint="json_schema says which JSON",
        )
    raise InvalidRequestError(
        f"{param}: expected an object with type text, json_schema, regex or choice, got {excerpt_of(response_format)}",
        param=param,
    )
