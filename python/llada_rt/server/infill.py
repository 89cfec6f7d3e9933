"""/v1/infill and /v1/edit: answers that are given in part. An edit is an infill whose holes were a text's stretches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..errors import ContextLengthError, InvalidRequestError
from ..excerpt import excerpt_of
from ..outputs import CompletionOutput, RequestOutput, TokenLogprob
from .chat import head_of, prompt_of
from .decoding import check_stream
from .protocol import EditRequest, InfillRequest, Span
from .replies import (
    FINISH,
    Form,
    Json,
    answer,
    begin_all,
    chat_logprobs,
    chunks,
    diffusion_of,
    headers_for,
    timings_of,
    unless_gone,
    usage_of,
)
from .service import Service
from .sse import Events


async def infill(service: Service, body: InfillRequest, request: Request) -> Response:
    _check_count(service, "segments", body.segments or ())
    prompt = _prompt(body) | {
        name: value
        for name in ("segments", "open_end", "suffix", "pinned")
        if (value := getattr(body, name)) is not None
    }
    return await _answer(service, body, request, prompt, "infill", [])


async def edit(service: Service, body: EditRequest, request: Request) -> Response:
    _check_count(service, "spans", body.spans)
    _check_spans(body.spans, len(body.text))
    segments = await service.beside(lambda: _segments(service, body.text, body.spans))
    edits = [{"start": each.start, "end": each.end, "before": body.text[each.start : each.end]} for each in body.spans]
    return await _answer(service, body, request, _prompt(body) | {"segments": segments}, "edit", edits)


def _prompt(body: InfillRequest | EditRequest) -> Json:
    """What stands before the answer."""
    if body.messages is not None and body.prompt is not None:
        raise InvalidRequestError("messages and prompt exclude each other: expected one of them", param="messages")
    if body.messages is not None:
        return prompt_of(body.messages, body.chat_template_kwargs)
    if body.chat_template_kwargs is not None:
        raise InvalidRequestError("chat_template_kwargs: expected messages beside it", param="chat_template_kwargs")
    if body.prompt is None:
        return {}
    return {"prompt": body.prompt} if isinstance(body.prompt, str) else {"prompt_token_ids": body.prompt}


def _check_count(service: Service, name: str, given: Sequence[Any]) -> None:
    """Not more than there are positions, before any of them is looked at."""
    if len(given) > service.core.max_length:
        raise ContextLengthError(
            f"{name}: {len(given)} are more than the {service.core.max_length} tokens of the model's context",
            param=name,
        )


def _check_spans(spans: Sequence[Span], length: int) -> None:
    at = 0
    for index, span in enumerate(spans):
        if not at <= span.start <= span.end <= length:
            raise InvalidRequestError(
                f"spans[{index}]: expected {at} <= start <= end <= {length}, in order and none overlapping, got "
                f"{span.start} and {span.end}",
                param="spans",
            )
        at = span.end


def _segments(service: Service, text: str, spans: Sequence[Span]) -> list[Any]:
    """The text with holes in the places of its spans."""
    segments: list[Any] = []
    at = 0
    for index, span in enumerate(spans):
        segments += [_kept(service, text[at : span.start]), _hole(service, text, span, index)]
        at = span.end
    return [each for each in (*segments, _kept(service, text[at:])) if each]


def _kept(service: Service, text: str) -> str:
    """What stays of the text. Raises InvalidRequestError for what the tokenizer would change."""
    written = service.core.decode(service.core.encode(text, add_beginning=False))
    if written != text:
        raise InvalidRequestError(
            f"text: the tokenizer does not keep {excerpt_of(text, 40)}, which would become {excerpt_of(written, 40)}",
            param="text",
        )
    return text


def _hole(service: Service, text: str, span: Span, index: int) -> Json:
    """The hole in a stretch's place: as many tokens as it has, unless the request says how many."""
    length = span.length
    if length is None and not span.choice:
        length = len(service.core.encode(text[span.start : span.end], add_beginning=False)) or None
        if length is None:
            raise InvalidRequestError(f"spans[{index}]: expected a length for a stretch without text", param="spans")
    hole: Json = {"hole": length, "regex": span.regex, "choice": span.choice}
    return {name: value for name, value in hole.items() if value is not None}


async def _answer(
    service: Service, body: InfillRequest | EditRequest, request: Request, prompt: Json, kind: str, edits: list[Json]
) -> Response:
    model = service.check_model(body.model)
    check_stream(body.stream, body.stream_options, body.stream_mode)
    chosen = service.read_options(body.options, {"logprobs": body.logprobs})
    head = head_of(f"{kind}-", kind, model, service)
    if body.stream:
        streams = await begin_all(service, [prompt], lambda one: service.begin(one, chosen.params, body.mode))
        form = InfillForm(head | {"object": f"{kind}.chunk"}, edits)
        pieces = chunks(service, streams, form, num_samples=chosen.params.n, includes_usage=body.includes_usage)
        return Events(service, streams, pieces, headers_for(chosen.ignored))
    (output,) = await unless_gone(request, service.generate([prompt], chosen.params))
    return answer(head | _whole(output, edits), chosen.ignored)


def _whole(output: RequestOutput, edits: list[Json]) -> Json:
    choices = [
        {"index": completion.index, "text": completion.text} | _end(completion, edits, completion.token_logprobs)
        for completion in output.outputs
    ]
    return {"choices": choices, "usage": usage_of([output]), "timings": timings_of([output])}


def _end(completion: CompletionOutput, edits: list[Json], tokens: Sequence[TokenLogprob] | None) -> Json:
    holes = completion.holes or []
    told: Json = {
        "logprobs": chat_logprobs(tokens),
        "finish_reason": FINISH[completion.finish_reason],
        "holes": [hole.to_dict() for hole in holes],
        "diffusion": diffusion_of(completion),
    }
    if edits:
        told["edits"] = [known | {"after": hole.text} for known, hole in zip(edits, holes, strict=True)]
    return told


class InfillForm(Form):
    def __init__(self, head: Json, edits: list[Json]) -> None:
        super().__init__(head)
        self._edits = edits

    def text(self, index: int, delta: str, tokens: Sequence[TokenLogprob] | None) -> Json:
        return {"index": index, "text": delta, "logprobs": chat_logprobs(tokens), "finish_reason": None}

    def last(self, index: int, completion: CompletionOutput, delta: str, tokens: Sequence[TokenLogprob] | None) -> Json:
        return {"index": index, "text": delta} | _end(completion, self._edits, tokens)
