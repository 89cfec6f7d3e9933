"""/v1/responses: OpenAI's newer form, its text part. Nothing is kept, so a conversation is given as a whole."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..errors import LladaRtError
from ..excerpt import excerpt_of
from ..outputs import CompletionOutput, RequestOutput, TokenLogprob
from ..params import SamplingParams
from .chat import prompt_of
from .decoding import check_stream, format_options
from .errors import UnsupportedParameterError, body_of
from .protocol import ResponsesRequest
from .replies import (
    Json,
    answer,
    begin_all,
    chat_logprobs,
    diffusion_of,
    headers_for,
    merged,
    timings_of,
    unless_gone,
    usage_of,
)
from .service import Service, Stream
from .sse import Events, event_of

LOGPROBS = "message.output_text.logprobs"
_TEXT_PARTS = ("input_text", "output_text", "text")


async def respond(service: Service, body: ResponsesRequest, request: Request) -> Response:
    service.check_model(body.model)
    check_stream(body.stream, body.stream_options, None)
    if body.stream_options and body.stream_options.include_usage is not None:
        raise UnsupportedParameterError(
            "stream_options.include_usage: no field of this request, whose last event always has the usage",
            param="stream_options.include_usage",
        )
    unknown = [each for each in body.include or () if each != LOGPROBS]
    if unknown:
        raise UnsupportedParameterError(
            f"include: expected only {LOGPROBS}, got {excerpt_of(unknown[0], 60)}", param="include"
        )
    wants_logprobs = bool(body.include) or body.top_logprobs is not None
    more = {
        "gen_length": body.max_output_tokens,
        "logprobs": (body.top_logprobs or 0) if wants_logprobs else None,
        **_text_options(body.text),
    }
    chosen = service.read_options(body.options, more)
    if chosen.params.n != 1:
        raise UnsupportedParameterError("n: expected 1, as a response has one message", param="n")
    prompt = prompt_of(_messages(body), body.chat_template_kwargs)
    draft = _Draft(service, body, chosen.params)
    if body.stream:
        streams = await begin_all(service, [prompt], lambda one: service.begin(one, chosen.params, "append"))
        return Events(service, streams, draft.events(streams), headers_for(chosen.ignored))
    (output,) = await unless_gone(request, service.generate([prompt], chosen.params))
    return answer(draft.done(output), chosen.ignored)


def _text_options(text: Mapping[str, Any] | None) -> Json:
    if text is None:
        return {}
    more = [name for name, value in text.items() if name != "format" and value is not None]
    if more:
        raise UnsupportedParameterError(f"text: expected only format, got {excerpt_of(more[0], 40)}", param="text")
    return format_options(text.get("format"), "text")


def _messages(body: ResponsesRequest) -> list[Json]:
    given = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
    before = [] if body.instructions is None else [{"role": "system", "content": body.instructions}]
    return before + [_message(item, f"input[{index}]") for index, item in enumerate(given)]


def _message(item: Mapping[str, Any], place: str) -> Json:
    """An item of the input as a message of a chat."""
    if item.get("type", "message") != "message":
        raise UnsupportedParameterError(
            f"{place}: expected a message, got an item of type {excerpt_of(item.get('type'), 40)}", param="input"
        )
    content = item.get("content")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, Mapping) and part.get("type") in _TEXT_PARTS]
        if len(parts) != len(content):
            raise UnsupportedParameterError(f"{place}.content: expected parts with text only", param="input")
        content = [{"type": "text", "text": part.get("text")} for part in parts]
    return {"role": item.get("role"), "content": content}


class _Draft:
    """A response on its way: what it says of itself at each stage."""

    def __init__(self, service: Service, body: ResponsesRequest, params: SamplingParams) -> None:
        self._item_id = f"msg_{uuid.uuid4().hex}"
        self._number = -1
        self._head: Json = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": service.check_model(body.model),
            "output": [],
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": params.temperature,
            "text": {"format": (body.text or {}).get("format") or {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": None,
        }

    def done(self, output: RequestOutput) -> Json:
        (completion,) = output.outputs
        is_whole = completion.finish_reason in ("stop", "length")
        usage = usage_of([output])
        # A canvas that is filled is a whole answer; what ended before that is not.
        return self._head | {
            "status": "completed" if is_whole else "incomplete",
            "incomplete_details": None if is_whole else {"reason": "max_output_tokens"},
            "output": [self._item(completion)],
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": usage["prompt_tokens_details"],
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage["total_tokens"],
            },
            "diffusion": diffusion_of(completion),
            "timings": timings_of([output]),
        }

    def _item(self, completion: CompletionOutput | None) -> Json:
        content = [] if completion is None else [_part(completion.text, completion.token_logprobs)]
        return {
            "id": self._item_id,
            "type": "message",
            "role": "assistant",
            "status": "in_progress" if completion is None else "completed",
            "content": content,
        }

    def _event(self, kind: str, **more: Any) -> bytes:
        self._number += 1
        return event_of({"type": kind, "sequence_number": self._number, **more}, kind)

    async def events(self, streams: Sequence[Stream]) -> AsyncGenerator[bytes, None]:
        place: Json = {"item_id": self._item_id, "output_index": 0, "content_index": 0}
        yield self._event("response.created", response=self._head)
        yield self._event("response.in_progress", response=self._head)
        yield self._event("response.output_item.added", output_index=0, item=self._item(None))
        yield self._event("response.content_part.added", **place, part=_part("", None))
        try:
            async with aclosing(merged(streams)) as events:
                async for _, event in events:
                    if event.text_delta:
                        logprobs = _logprobs(event.token_logprobs)
                        yield self._event(
                            "response.output_text.delta", **place, delta=event.text_delta, logprobs=logprobs
                        )
                    if event.output is not None:
                        for piece in self._end(event.output, place):
                            yield piece
        except LladaRtError as error:
            told = body_of(error)["error"]
            failed = self._head | {"status": "failed", "error": {"code": told["code"], "message": told["message"]}}
            yield self._event("response.failed", response=failed)

    def _end(self, output: RequestOutput, place: Json) -> list[bytes]:
        (completion,) = output.outputs
        part = _part(completion.text, completion.token_logprobs)
        whole = self.done(output)
        return [
            self._event(
                "response.output_text.done",
                **place,
                text=completion.text,
                logprobs=_logprobs(completion.token_logprobs),
            ),
            self._event("response.content_part.done", **place, part=part),
            self._event("response.output_item.done", output_index=0, item=self._item(completion)),
            self._event(f"response.{whole['status']}", response=whole),
        ]


def _part(text: str, tokens: Sequence[TokenLogprob] | None) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": _logprobs(tokens)}


def _logprobs(tokens: Sequence[TokenLogprob] | None) -> list[Json]:
    told = chat_logprobs(tokens)
    return told["content"] if told else []
