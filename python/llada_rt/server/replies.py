"""Parts of answers that several kinds of requests share: choices, usage, log-probabilities, and their streams."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from ..errors import RequestTooLargeError
from ..json_values import plain
from ..outputs import CompletionOutput, RequestOutput, StepEvent, TokenLogprob, openai_content
from .service import Event, Service, Stream
from .sse import DONE, ClientGoneError, dumped, event_of

Json = dict[str, Any]
Result = TypeVar("Result")
# OpenAI's clients know two of ours; the engine's own word stands in the choice's `diffusion`.
FINISH = {"stop": "stop", "length": "length", "max_nfe": "length", "timeout": "length", "abort": "length"}


def answer(value: Json, ignored: Sequence[str] = (), status: int = 200) -> Response:
    """One JSON answer."""
    return Response(dumped(value), status, headers_for(ignored), "application/json")


def headers_for(ignored: Sequence[str]) -> dict[str, str]:
    """Unknown fields that were ignored are named in a header."""
    names = [name.encode("ascii", "backslashreplace").decode().replace(",", "\\x2c") for name in ignored[:20]]
    return {"x-ignored-params": ",".join(names)} if names else {}


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Do the work; a client that goes away meanwhile ends it."""
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ClientGoneError
        return doing.result()
    finally:
        doing.cancel()
        leaving.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# ---------------------------------------------------------------- parts of an answer


def usage_of(outputs: Sequence[RequestOutput]) -> Json:
    """Tokens read and written. No prompt's keys and values outlive its request, so none is cached."""
    read = sum(len(output.prompt_token_ids) for output in outputs)
    written = sum(output.usage.completion_tokens for output in outputs)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def diffusion_of(completion: CompletionOutput) -> Json:
    """How a response was written: what OpenAI's form has no place for."""
    told: Json = completion.diffusion.to_dict() | {
        "finish_reason": completion.finish_reason,
        "stop_reason": completion.stop_reason,
        "seed": completion.seed,
    }
    if completion.audit is not None:
        told["audit"] = completion.audit.to_dict()
    if completion.tokens is not None:
        told["tokens"] = [token.to_dict() for token in completion.tokens]
    return told


def timings_of(outputs: Sequence[RequestOutput]) -> Json:
    """Milliseconds, of the slowest of several prompts."""
    times = [output.metrics for output in outputs]
    total = max(each.total_s for each in times)
    written = sum(output.usage.completion_tokens for output in outputs)

    def slowest(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return round(max(known) * 1000, 3) if known else None

    return {
        "queue_ms": slowest(each.queue_s for each in times),
        "first_commit_ms": slowest(each.first_text_s for each in times),
        "total_ms": round(total * 1000, 3),
        "tokens_per_second": round(written / total, 3) if total else None,
    }


def chat_logprobs(tokens: Sequence[TokenLogprob] | None) -> Json | None:
    return None if tokens is None else openai_content(tokens)


class TextOffsets:
    """`logprobs` of a completion in OpenAI's older form, piece by piece: offsets go on from piece to piece."""

    def __init__(self, begin: int = 0) -> None:
        self._at = begin
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def logprobs(self, tokens: Sequence[TokenLogprob] | None) -> Json | None:
        if tokens is None:
            return None
        told: Json = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for known in tokens:
            if known.is_special:
                continue
            told["tokens"].append(known.token)
            told["token_logprobs"].append(0.0 if known.logprob is None else plain(known.logprob))
            told["top_logprobs"].append({top.token: plain(top.logprob) for top in reversed(known.top_logprobs)})
            told["text_offset"].append(self._at)
            self._at += len(self._decoder.decode(bytes(known.bytes or ())))
        return told


# ---------------------------------------------------------------- streams


class Form:
    """How the pieces of one kind of stream look: a subclass for each. `head`: what all chunks have."""

    def __init__(self, head: Json) -> None:
        self.head = head

    def first(self, index: int) -> Json | None:
        """The choice that a response begins with, before anything is known of it."""
        return None

    def text(self, index: int, delta: str, tokens: Sequence[TokenLogprob] | None) -> Json:
        raise NotImplementedError

    def last(self, index: int, completion: CompletionOutput, delta: str, tokens: Sequence[TokenLogprob] | None) -> Json:
        """The choice that ends a response; `delta`: its last text."""
        raise NotImplementedError


async def chunks(
    service: Service,
    streams: Sequence[Stream],
    form: Form,
    *,
    num_samples: int,
    includes_usage: bool,
) -> AsyncGenerator[bytes, None]:
    """Chunks of all streams as they come; the choices of the k-th begin at k * num_samples."""
    outputs: list[RequestOutput] = []
    blank = {"usage": None} if includes_usage else {}
    canvases = Canvases(service)
    for index in range(len(streams) * num_samples):
        if (choice := form.first(index)) is not None:
            yield event_of(form.head | {"choices": [choice]} | blank)
    async with aclosing(merged(streams)) as events:
        async for number, event in events:
            index = number * num_samples + event.index
            shown = canvases.of(index, event) if isinstance(event, StepEvent) else {}
            # In a denoise stream log-probabilities come in the order of steps, with the tokens of `diffusion`.
            tokens = None if shown else event.token_logprobs
            if event.completion is not None:
                if shown:
                    tokens = event.completion.token_logprobs
                choice = form.last(index, event.completion, event.text_delta, tokens)
            else:
                choice = form.text(index, event.text_delta, tokens)
            yield event_of(form.head | {"choices": [choice]} | shown | blank)
            if event.output is not None:
                outputs.append(event.output)
    if includes_usage:
        yield event_of(form.head | {"choices": [], "usage": usage_of(outputs), "timings": timings_of(outputs)})
    yield DONE


class Canvases:
    """What a denoise stream shows of each step. The first event of a response shows the canvas it began with."""

    def __init__(self, service: Service) -> None:
        self._core = service.core
        self._begun: set[int] = set()
        self._texts: dict[int, str] = {}

    def of(self, index: int, event: StepEvent) -> Json:
        logprobs: Sequence[TokenLogprob | None] = event.token_logprobs or [None] * len(event.committed)
        committed = []
        for (position, token, confidence), known in zip(event.committed, logprobs, strict=True):
            told = {"position": position - event.prompt_length, "confidence": plain(confidence), **self._token(token)}
            if known is not None:
                told |= {key: known.to_dict()[key] for key in ("logprob", "top_logprobs")}
            committed.append(told)
        shown = {"index": index, "step": event.step, "block": event.block, "nfe": event.nfe, "committed": committed}
        if index not in self._begun:
            self._begun.add(index)
            new = {position for position, _, _ in event.committed}
            mask = self._core.mask_token_id
            shown["canvas"] = [
                None if position in new or token == mask else self._token(token)
                for position, token in enumerate(event.canvas)
                if position >= event.prompt_length
            ]
        return {"diffusion": shown}

    def _token(self, token: int) -> Json:
        if token not in self._texts:
            tokenizer = self._core.tokenizer
            self._texts[token] = tokenizer.token_text(token) if tokenizer else ""
        return {"id": token, "text": self._texts[token]}


async def merged(streams: Sequence[Stream]) -> AsyncGenerator[tuple[int, Event], None]:
    """Events of several streams as they come, each with the number of its stream. The first error ends all."""
    if len(streams) == 1:
        async with aclosing(streams[0].events()) as events:
            async for event in events:
                yield 0, event
        return
    came: asyncio.Queue[tuple[int, Event | BaseException | None]] = asyncio.Queue()

    async def read(number: int, stream: Stream) -> None:
        try:
            async with aclosing(stream.events()) as events:
                async for event in events:
                    came.put_nowait((number, event))
        except Exception as error:
            came.put_nowait((number, error))
        else:
            came.put_nowait((number, None))

    reading = [asyncio.create_task(read(number, stream)) for number, stream in enumerate(streams)]
    try:
        left = len(streams)
        while left:
            number, what = await came.get()
            if isinstance(what, BaseException):
                raise what
            if what is None:
                left -= 1
            else:
                yield number, what
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


async def begin_all(
    service: Service, prompts: Sequence[Any], begin: Callable[[Any], Coroutine[Any, Any, Stream]], num_samples: int = 1
) -> list[Stream]:
    """The streams of all prompts, queued; if one is refused none runs."""
    most = service.core.config.max_num_queued_reqs
    if len(prompts) * num_samples > most:
        raise RequestTooLargeError(
            f"a stream of {len(prompts)} prompts with {num_samples} samples each is more than the {most} that may wait",
            param="prompt",
            hint="fewer at a time, or no stream",
        )
    streams: list[Stream] = []
    try:
        for prompt in prompts:
            streams.append(await begin(prompt))
    except BaseException:
        for stream in streams:
            await stream.aclose()
        raise
    return streams
