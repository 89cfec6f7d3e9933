"""/v1/chat/completions: a conversation and its answer."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..errors import InvalidRequestError
from ..outputs import CompletionOutput, RequestOutput, TokenLogprob
from .decoding import check_stream, format_options
from .protocol import ChatRequest
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


async def chat(service: Service, body: ChatRequest, request: Request) -> Response:
    model = service.check_model(body.model)
    check_stream(body.stream, body.stream_options, body.stream_mode)
    logprobs = read_logprobs(body.logprobs, body.top_logprobs)
    more = {"logprobs": logprobs, **format_options(body.response_format)}
    chosen = service.read_options(body.options, more)
    prompt = prompt_of(body.messages, body.chat_template_kwargs)
    head = head_of("chatcmpl-", "chat.completion", model, service)
    if body.stream:
        streams = await begin_all(service, [prompt], lambda one: service.begin(one, chosen.params, body.mode))
        form = ChatForm(head | {"object": "chat.completion.chunk"})
        pieces = chunks(service, streams, form, num_samples=chosen.params.n, includes_usage=body.includes_usage)
        return Events(service, streams, pieces, headers_for(chosen.ignored))
    (output,) = await unless_gone(request, service.generate([prompt], chosen.params))
    return answer(head | whole(output), chosen.ignored)


def head_of(prefix: str, kind: str, model: str, service: Service) -> Json:
    return {
        "id": prefix + uuid.uuid4().hex,
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": service.fingerprint,
    }


def read_logprobs(flag: bool | None, alternatives: int | None) -> int | None:
    """The option logprobs from OpenAI's two fields."""
    if alternatives and not flag:
        raise InvalidRequestError("top_logprobs: expected logprobs = true beside it", param="top_logprobs")
    return (alternatives or 0) if flag else None


def prompt_of(messages: Sequence[Mapping[str, Any]], chat_template_kwargs: Mapping[str, Any] | None) -> Json:
    return {"messages": [_message(each) for each in messages], "chat_template_kwargs": chat_template_kwargs}


def _message(message: Mapping[str, Any]) -> Json:
    """A message as the engine takes it: OpenAI's other fields are left out where they say nothing (refusal = null),
    and its developer is who others call system.
    """
    kept = {key: value for key, value in message.items() if key in ("role", "content") or value not in (None, [], {})}
    return kept | {"role": "system"} if kept.get("role") == "developer" else kept


def whole(output: RequestOutput) -> Json:
    choices = [
        {
            "index": completion.index,
            "message": {"role": "assistant", "content": completion.text, "refusal": None},
            "logprobs": chat_logprobs(completion.token_logprobs),
            "finish_reason": FINISH[completion.finish_reason],
            "diffusion": diffusion_of(completion),
        }
        for completion in output.outputs
    ]
    return {"choices": choices, "usage": usage_of([output]), "timings": timings_of([output])}


class ChatForm(Form):
    def first(self, index: int) -> Json:
        return _delta(index, {"role": "assistant", "content": ""})

    def text(self, index: int, delta: str, tokens: Sequence[TokenLogprob] | None) -> Json:
        return _delta(index, {"content": delta} if delta else {}) | {"logprobs": chat_logprobs(tokens)}

    def last(self, index: int, completion: CompletionOutput, delta: str, tokens: Sequence[TokenLogprob] | None) -> Json:
        return self.text(index, delta, tokens) | {
            "finish_reason": FINISH[completion.finish_reason],
            "diffusion": diffusion_of(completion),
        }


def _delta(index: int, delta: Json) -> Json:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
