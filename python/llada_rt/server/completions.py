"""/v1/completions: texts or token ids, and what comes after them, or between them and a suffix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..errors import InvalidRequestError
from ..outputs import CompletionOutput, TokenLogprob
from .chat import head_of
from .decoding import check_stream, format_options
from .errors import UnsupportedParameterError
from .protocol import CompletionRequest
from .replies import (
    FINISH,
    Form,
    Json,
    TextOffsets,
    answer,
    begin_all,
    chunks,
    diffusion_of,
    headers_for,
    timings_of,
    unless_gone,
    usage_of,
)
from .service import Service
from .sse import Events


async def complete(service: Service, body: CompletionRequest, request: Request) -> Response:
    model = service.check_model(body.model)
    check_stream(body.stream, body.stream_options, body.stream_mode)
    if body.echo and body.logprobs is not None:
        raise UnsupportedParameterError(
            "logprobs: with echo the prompt's would be asked for, and a prompt is not generated",
            param="logprobs",
            hint="/v1/score rates a text",
        )
    more = {"logprobs": body.logprobs, **format_options(body.response_format)}
    chosen = service.read_options(body.options, more)
    given = _prompts(body, service)
    prompts = [each if body.suffix is None else _before(each) | {"suffix": body.suffix} for each in given]
    echoed = [await _text(service, each) if body.echo else "" for each in given]
    head = head_of("cmpl-", "text_completion", model, service)
    num_samples = chosen.params.n
    if body.stream:
        streams = await begin_all(
            service, prompts, lambda one: service.begin(one, chosen.params, body.mode), num_samples
        )
        form = CompletionForm(head, [text for text in echoed for _ in range(num_samples)], body.suffix is not None)
        pieces = chunks(service, streams, form, num_samples=num_samples, includes_usage=body.includes_usage)
        return Events(service, streams, pieces, headers_for(chosen.ignored))
    outputs = await unless_gone(request, service.generate(prompts, chosen.params))
    choices = []
    for number, output in enumerate(outputs):
        for completion in output.outputs:
            text, tokens = shown_of(completion, is_middle=body.suffix is not None)
            choices.append(
                {
                    "index": number * num_samples + completion.index,
                    "text": echoed[number] + text,
                    "logprobs": TextOffsets(len(echoed[number])).logprobs(tokens),
                    "finish_reason": FINISH[completion.finish_reason],
                    "diffusion": diffusion_of(completion),
                }
            )
    told = {"choices": choices, "usage": usage_of(outputs), "timings": timings_of(outputs)}
    return answer(head | told, chosen.ignored)


def _prompts(body: CompletionRequest, service: Service) -> list[str | list[int]]:
    """One prompt or several, as OpenAI writes them."""
    given: Any = body.prompt
    is_one = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
    prompts = [given] if is_one else list(given)
    if not prompts:
        raise InvalidRequestError("prompt: expected at least one, got an empty list", param="prompt")
    if len(prompts) > service.settings.max_prompts:
        raise InvalidRequestError(
            f"prompt: expected at most {service.settings.max_prompts} prompts, got {len(prompts)}", param="prompt"
        )
    return prompts


def _before(prompt: str | list[int]) -> Json:
    """What stands before a suffix; nothing may."""
    if isinstance(prompt, str):
        return {"prompt": prompt} if prompt else {}
    return {"prompt_token_ids": prompt} if prompt else {}


async def _text(service: Service, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else await service.beside(lambda: service.core.decode(prompt))


def shown_of(completion: CompletionOutput, *, is_middle: bool) -> tuple[str, Sequence[TokenLogprob] | None]:
    """Text and tokens of a response; of one before a suffix, without the suffix."""
    if not is_middle:
        return completion.text, completion.token_logprobs
    assert completion.holes is not None
    (hole,) = completion.holes
    tokens = completion.token_logprobs
    return hole.text, None if tokens is None else tokens[: len(hole.token_ids)]


class CompletionForm(Form):
    """`echoed`: what the text of each choice begins with."""

    def __init__(self, head: Json, echoed: Sequence[str], is_middle: bool) -> None:
        super().__init__(head)
        self._echoed, self._is_middle = echoed, is_middle
        self._offsets = [TextOffsets(len(text)) for text in echoed]
        self._sent = [0] * len(echoed)  # characters
        self._told = [0] * len(echoed)  # tokens

    def first(self, index: int) -> Json | None:
        return _choice(index, self._echoed[index]) if self._echoed[index] else None

    def text(self, index: int, delta: str, tokens: Sequence[TokenLogprob] | None) -> Json:
        self._sent[index] += len(delta)
        self._told[index] += len(tokens or ())
        return _choice(index, delta) | {"logprobs": self._offsets[index].logprobs(tokens)}

    def last(self, index: int, completion: CompletionOutput, delta: str, tokens: Sequence[TokenLogprob] | None) -> Json:
        if self._is_middle:  # what has settled before the end is of the middle; the rest of it is settled now
            text, shown = shown_of(completion, is_middle=True)
            delta, tokens = text[self._sent[index] :], None if shown is None else shown[self._told[index] :]
        return self.text(index, delta, tokens) | {
            "finish_reason": FINISH[completion.finish_reason],
            "diffusion": diffusion_of(completion),
        }


def _choice(index: int, text: str) -> Json:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": None}
