"""From what a caller gives (text, ids, messages, segments) to a checked Request.

Everything is checked here, before any work. Below this file values are trusted.
"""

from __future__ import annotations

import functools
import numbers
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any

from ..errors import ContextLengthError, InvalidRequestError, TokenizerError
from ..excerpt import excerpt, excerpt_of
from ..folder.model_files import SpecialIds
from ..params import SamplingParams
from ..planning.expression import regex_of
from ..planning.grammar import Grammar
from ..planning.plan import Span
from ..planning.token_grammar import TokenGrammar
from .chat.messages import check_messages, text_of
from .template import Hole, Template, read_template
from .tokenizer import Tokenizer

# A prompt is text, token ids, or a mapping with one of prompt, prompt_token_ids, messages, and/or segments.
MIN_LONGEST_TOKEN = 32  # characters; a tokenizer may leave some out, spaces for one
_ANSWERS = ("segments", "suffix", "pinned", "open_end")
Prompt = str | SequenceOf[int] | Mapping[str, Any]
Segments = SequenceOf[str | int | SequenceOf[int] | Hole | Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request: the ids before the response, and of an infill the response as a template."""

    request_id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    template: Template | None
    pinned: tuple[tuple[int, int], ...]  # (position in the response, token) of a generation
    grammars: tuple[tuple[Span, TokenGrammar], ...]  # what stretches of the canvas must be
    mask_id: int
    end_tokens: frozenset[int]


class RequestReader:
    """Reads prompts for one model."""

    def __init__(self, tokenizer: Tokenizer | None, special: SpecialIds, *, vocab_size: int, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.special = special
        self.vocab_size = vocab_size
        self.max_length = max_length
        if tokenizer is not None:
            tokenizer.protect((special.mask, *special.ends))

    def read(self, prompt: object, params: SamplingParams, request_id: str) -> Request:
        """One prompt, with its length checked against the context."""
        text, ids, more = self.prompt_parts(prompt, params.split_special_tokens)
        template = self._template(more, params)
        pinned = self._pinned(more.get("pinned"), params)
        if template is None and not ids:
            raise InvalidRequestError("the prompt is empty: expected at least one token", param="prompt")
        if self.special.mask in ids and (params.preset != "reference" or template is not None):
            raise InvalidRequestError(
                f"the prompt holds the mask token {self.special.mask} at position {ids.index(self.special.mask)}",
                param="prompt",
                hint="to fill holes use infill",
            )
        if "suffix_window" in params.given and params.suffix_window is not None and (template is not None or pinned):
            raise InvalidRequestError(
                "suffix_window: expected a generation whose response is all open, got one with given text in it",
                param="suffix_window",
            )
        response = params.gen_length if template is None else len(template.tokens)
        self.check_length(len(ids), response, "gen_length" if template is None else "the template")
        self._check_ends(params)
        self._check_stops(params, is_infill=template is not None)
        return Request(
            request_id=request_id,
            prompt=text,
            prompt_token_ids=tuple(ids),
            template=template,
            pinned=pinned,
            grammars=self._grammars(len(ids), template, params),
            mask_id=self.special.mask,
            end_tokens=self.special.ends,
        )

    def prompt_parts(self, prompt: object, split: bool | None) -> tuple[str | None, list[int], Mapping[str, Any]]:
        """(text, ids, the rest) of a prompt in any of its forms. `split`: as `split_special_tokens` says."""
        prompt_ids_of = functools.partial(self.prompt_ids_of, split=bool(split))
        if not isinstance(prompt, Mapping):
            text = prompt if isinstance(prompt, str) else None
            return text, prompt_ids_of(prompt), {}
        kinds = [kind for kind in ("prompt", "prompt_token_ids", "messages") if kind in prompt]
        allowed = {"prompt", "prompt_token_ids", "messages", *_ANSWERS}
        unknown = set(prompt) - (allowed | {"chat_template_kwargs"} if "messages" in prompt else allowed)
        answers = [name for name in ("segments", "suffix", "pinned") if name in prompt]
        if unknown or len(kinds) > 1 or len(answers) > 1 or not (kinds or answers):
            raise InvalidRequestError(
                "prompt: expected one of prompt, prompt_token_ids, messages, and/or segments, suffix or pinned, got "
                + (", ".join(sorted(map(_key, prompt))) or "nothing"),
                param="prompt",
            )
        if "messages" in prompt:
            rendered = self.rendered(prompt["messages"], prompt.get("chat_template_kwargs"))
            ids = self.need_tokenizer().encode_chat(rendered, split_special_tokens=split is not False)
            return None, self.check_ids(ids, "messages"), prompt
        if "prompt" in prompt:
            if not isinstance(prompt["prompt"], str):
                raise InvalidRequestError(
                    f"prompt: expected text, got {type(prompt['prompt']).__name__}", param="prompt"
                )
            return prompt["prompt"], prompt_ids_of(prompt["prompt"]), prompt
        if "prompt_token_ids" in prompt:
            return None, self.check_ids(prompt["prompt_token_ids"], "prompt_token_ids"), prompt
        return None, [], prompt

    def rendered(self, messages: object, chat_template_kwargs: Any) -> str:
        """A conversation by the chat template, its length checked before and after."""
        checked = check_messages(messages)
        self._check_characters(sum(len(text_of(message["content"])) for message in checked), "messages")
        text = self.need_tokenizer().render_chat(checked, chat_template_kwargs=chat_template_kwargs)
        self._check_characters(len(text), "messages")
        return text

    def _template(self, more: Mapping[str, Any], params: SamplingParams) -> Template | None:
        """What `segments` or `suffix` say; None: it is a generation."""
        open_end = more.get("open_end", False)
        if not isinstance(open_end, bool) or (open_end and "segments" not in more):
            raise InvalidRequestError(
                f"open_end: expected True or False beside segments, got {_kind(open_end)}", param="open_end"
            )
        if "suffix" in more:
            segments: object = [Hole(params.gen_length), more["suffix"]]
        elif "segments" in more:
            segments = more["segments"]
        else:
            return None
        return read_template(
            segments,
            mask_id=self.special.mask,
            max_length=self.max_length,
            ids_of=functools.partial(self.ids_of, split=bool(params.split_special_tokens)),
            open_length=params.gen_length if open_end else 0,
        )

    def _grammars(
        self, start: int, template: Template | None, params: SamplingParams
    ) -> tuple[tuple[Span, TokenGrammar], ...]:
        """The grammars of a template's holes, or that of a generated response."""
        rule = regex_of(params.choice) if params.choice else params.regex
        if template is None:
            rules = [(Span(0, params.gen_length), rule)] if rule is not None else []
        elif rule is not None:
            name = "choice" if params.choice else "regex"
            raise InvalidRequestError(
                f"{name}: expected a generation, got a template", param=name, hint=f"give a hole a {name} of its own"
            )
        else:
            rules = list(template.rules)
        if not rules:
            return ()
        if params.adablock is not None:
            raise InvalidRequestError(
                f"a regex or a choice is a block of its own: expected no adablock beside it, got {params.adablock}",
                param="adablock",
            )
        if params.block_order != "left_to_right":
            raise InvalidRequestError(
                "a regex or a choice is written from left to right: expected block_order left_to_right",
                param="block_order",
            )
        if not self.special.ends:
            raise InvalidRequestError("a regex or a choice needs an end-of-text token, and the model names none")
        alphabet = self.need_tokenizer().alphabet
        return tuple(
            (
                Span(start + hole.start, start + hole.stop),
                TokenGrammar(Grammar(text, alphabet.pick), alphabet, self.vocab_size),
            )
            for hole, text in rules
        )

    def _pinned(self, value: object, params: SamplingParams) -> tuple[tuple[int, int], ...]:
        """{position in the response: token id} -> pairs in order. JSON writes the positions as text."""
        if value is None:
            return ()
        if not isinstance(value, Mapping):
            raise InvalidRequestError(f"pinned: expected {{position: token id}}, got {_kind(value)}", param="pinned")
        pinned = {}
        for place, token in value.items():
            number = int(place) if isinstance(place, str) and place.isdecimal() and len(place) < 10 else place
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < params.gen_length:
                raise InvalidRequestError(
                    f"pinned: expected positions from 0 to {params.gen_length - 1}, got {excerpt_of(place, 40)}",
                    param="pinned",
                )
            (pinned[number],) = self.check_ids([token], f"pinned[{number}]")
            if pinned[number] == self.special.mask:
                raise InvalidRequestError(f"pinned[{number}]: is the mask token", param="pinned")
        if pinned and (params.regex is not None or params.choice):
            raise InvalidRequestError("pinned: a regex or a choice is written alone", param="pinned")
        if len(pinned) == params.gen_length:
            raise InvalidRequestError("pinned: expected a position to be left open, got none", param="pinned")
        return tuple(sorted(pinned.items()))

    def _check_ends(self, params: SamplingParams) -> None:
        if params.logits_eos_inf and self.special.eos is None:
            raise InvalidRequestError(
                "logits_eos_inf needs an end-of-text token, and the model names none",
                param="logits_eos_inf",
                hint="give Engine(..., eos_token_id=...)",
            )
        if params.confidence_eos_eot_inf and not self.special.ends:
            raise InvalidRequestError(
                "confidence_eos_eot_inf needs an end-of-text or end-of-turn token, and the model names none",
                param="confidence_eos_eot_inf",
                hint="give Engine(..., eos_token_id=..., eot_token_id=...)",
            )

    def _check_stops(self, params: SamplingParams, *, is_infill: bool) -> None:
        given = [name for name in ("stop", "stop_token_ids") if getattr(params, name)]
        if given and is_infill:
            raise InvalidRequestError(
                f"{given[0]}: expected a generation, got an infill, which fills all holes and cannot stop before",
                param=given[0],
            )
        if params.stop and self.tokenizer is None:
            raise TokenizerError("stop needs a tokenizer, and the model folder has none", param="stop")
        for token in params.stop_token_ids:
            if token >= self.vocab_size or token == self.special.mask:
                raise InvalidRequestError(
                    f"stop_token_ids: expected ids from 0 to {self.vocab_size - 1} other than the mask, got {token}",
                    param="stop_token_ids",
                )

    def need_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise TokenizerError(
                "the model folder has no tokenizer.json, so text cannot be encoded", hint="give token ids"
            )
        return self.tokenizer

    def prompt_ids_of(self, value: object, *, split: bool = False) -> list[int]:
        """Ids of a prompt: a text gets the tokenizer's BOS, ids stay as they are."""
        if not isinstance(value, str):
            return self.check_ids(value, "prompt")
        self._check_characters(len(value), "prompt")
        return self.check_ids(self.need_tokenizer().encode_prompt(value, split_special_tokens=split), "prompt")

    def ids_of(self, value: object, name: str, *, split: bool = False) -> list[int]:
        """Ids of text or of ids. `split`: control tokens named in a text are only characters."""
        if isinstance(value, str):
            self._check_characters(len(value), name)
            value = self.need_tokenizer().encode(value, split_special_tokens=split)
        return self.check_ids(value, name)

    def _check_characters(self, count: int, name: str) -> None:
        """Whether the context could hold them, were all tokens as long as the longest. Encoding takes time, memory."""
        most = self.max_length * max(self.need_tokenizer().longest_token, MIN_LONGEST_TOKEN)
        if count > most:
            raise ContextLengthError(
                f"{name}: {count} characters are more than the {most} that the {self.max_length} tokens of the model's "
                "context can hold",
                param=name,
            )

    def check_ids(self, value: object, name: str) -> list[int]:
        """Token ids as a list, each in the vocabulary; not more than the context holds."""
        if hasattr(value, "tolist"):  # a numpy array
            value = value.tolist()
        if not isinstance(value, (list, tuple)):
            raise InvalidRequestError(f"{name}: expected text or token ids, got {_kind(value)}", param=name)
        if len(value) > self.max_length:
            raise ContextLengthError(
                f"{name}: {len(value)} tokens are more than the {self.max_length} of the model's context", param=name
            )
        for index, token in enumerate(value):
            if isinstance(token, bool) or not isinstance(token, numbers.Integral):
                raise InvalidRequestError(f"{name}[{index}]: expected a token id, got {_kind(token)}", param=name)
            if not 0 <= int(token) < self.vocab_size:
                raise InvalidRequestError(
                    f"{name}[{index}]: expected a token id from 0 to {self.vocab_size - 1}, "
                    f"got {excerpt_of(token, 40)}",
                    param=name,
                )
        return [int(token) for token in value]

    def check_length(self, given: int, wanted: int, what: str) -> None:
        if given + wanted > self.max_length:
            raise ContextLengthError(
                f"{given} tokens given + {wanted} of {what} = {given + wanted} are more than the {self.max_length} "
                "of the model's context",
                param="gen_length" if what == "gen_length" else "prompt",
                hint="shorten the prompt or ask for less; nothing is cut silently",
            )


def _key(value: object) -> str:
    return excerpt(value, 40) if isinstance(value, str) else excerpt_of(value, 40)


def _kind(value: object) -> str:
    if value is None or isinstance(value, (int, float, str)):
        return excerpt_of(value, 40)
    return f"an empty {type(value).__name__}" if value in ([], (), {}) else type(value).__name__


def split_prompts(prompts: object) -> list[object]:
    """One prompt or many -> many. A list of integers is one prompt."""
    if isinstance(prompts, (str, Mapping)):
        return [prompts]
    if hasattr(prompts, "tolist"):
        prompts = prompts.tolist()
    if not isinstance(prompts, (list, tuple)):
        raise InvalidRequestError(
            f"prompts: expected text, token ids, a mapping, or a list of these, got {_kind(prompts)}", param="prompts"
        )
    if not prompts:
        raise InvalidRequestError("prompts: expected at least one, got an empty list", param="prompts")
    if isinstance(prompts[0], numbers.Real):
        return [prompts]
    return list(prompts)


def without_what_prompt_excludes(prompt: object, params: SamplingParams) -> SamplingParams:
    """Params whose model defaults, which nobody asked for, make room for a template or pinned tokens."""
    if not isinstance(prompt, Mapping):
        return params
    if prompt.get("segments") is None and "suffix" not in prompt:
        return params.without_defaults("regex", "choice") if prompt.get("pinned") else params
    segments = prompt.get("segments")
    for segment in segments if isinstance(segments, (list, tuple)) else ():
        of = segment.get if isinstance(segment, Mapping) else functools.partial(getattr, segment)
        if of("regex", None) is not None or of("choice", None):
            params = params.without_defaults("block_order", "adablock", "adablock_token")
    # "The whole answer at once" and "a token a step", said of an answer of the model's own length, mean that of any.
    lengths = [name for name in ("steps", "block_length") if getattr(params, name) == params.gen_length]
    return params.without_defaults("stop", "stop_token_ids", "regex", "choice", *lengths)
