"""Any server that speaks OpenAI's `/v1/completions`, by its address: vLLM, SGLang, llama-server, TGI, or our own.

Questions of a call are sent at once, one streamed request each, greedy. What counts are the tokens that the server
reports (`usage`), never the number of chunks. Prompts go as token ids, or as text through `decode`; where the server
sends no token ids back, `encode` makes them of the text, so that answers can be compared.
"""

import http.client
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from benchmarks.baselines.contract import Answer, EndpointDied, Kind, Question, cut

Decode = Callable[[Sequence[int]], str]
Encode = Callable[[str], Sequence[int]]
UNKNOWN_TOKEN = -1  # a token that the server counted and did not name


class EndpointError(Exception):
    """A request that was refused or broke off. The message says what came."""


class OpenAIEndpoint:
    """`url` as far as /v1 ("http://host:8000/v1"). Raises ValueError for another kind of address.

    `kind` is what serves there, which no endpoint tells. An answer has as many tokens as `usage` says (most servers
    count the end token): by name where the server sends ids (vLLM's `return_token_ids`) or `encode` is given, else
    UNKNOWN_TOKEN. `ignore_eos`, which most servers understand, asks for all of `max_new_tokens`. `options` are added to
    each request as they are. `timeout_s` is the longest silence.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        kind: Kind = "arm",
        api_key: str | None = None,
        decode: Decode | None = None,
        encode: Encode | None = None,
        stop_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        timeout_s: float = 120.0,
        options: dict[str, Any] | None = None,
    ) -> None:
        parts = urlsplit(url)  # its `port` raises ValueError too
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError(f"url: expected http(s)://host[:port]/v1, got {url!r}")
        self.name, self.kind = f"{model} at {parts.netloc.rpartition('@')[2]}", kind
        self.parts, self.path = parts, parts.path.rstrip("/") + "/completions"
        self.headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        if api_key is not None:
            self.headers["Authorization"] = f"Bearer {api_key}"
        self.decode, self.encode, self.stop_ids = decode, encode, tuple(stop_ids)
        self.timeout_s = timeout_s
        self.request = {"model": model, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
        self.request |= {"ignore_eos": True} if ignore_eos else {}
        self.request |= options or {}

    def close(self) -> None:
        """Nothing is held between calls."""

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """Raises EndpointDied, with the answers that were whole, if one of the requests fails."""
        began = time.perf_counter()
        answers: list[Answer | None] = [None] * len(questions)
        causes: list[str] = []

        def ask(index: int) -> None:
            try:
                answers[index] = self._ask(questions[index], began)
            except (OSError, http.client.HTTPException, EndpointError) as error:
                causes.append(str(error) or type(error).__name__)

        with ThreadPoolExecutor(len(questions)) as pool:
            list(pool.map(ask, range(len(questions))))
        if causes:
            raise EndpointDied(self.name, answers, causes[0])
        return [answer for answer in answers if answer is not None]

    def _ask(self, question: Question, began: float) -> Answer:
        prompt = self.decode(question.prompt) if self.decode else list(question.prompt)
        body = json.dumps({**self.request, "prompt": prompt, "max_tokens": question.max_new_tokens})
        https = self.parts.scheme == "https"
        connect = http.client.HTTPSConnection if https else http.client.HTTPConnection
        connection = connect(self.parts.hostname or "", self.parts.port, timeout=self.timeout_s)
        try:
            connection.request("POST", self.path, body, self.headers)
            response = connection.getresponse()
            if response.status != 200:
                raise EndpointError(f"status {response.status}: {response.read(300).decode(errors='replace')}")
            return self._read(events(response), began)
        finally:
            connection.close()

    def _read(self, chunks: Iterator[dict[str, Any]], began: float) -> Answer:
        ids: list[int] = []
        text, first_s, usage = "", None, None
        last_s = 0.0
        for chunk in chunks:
            usage = chunk.get("usage") or usage
            for choice in filter(is_object, chunk.get("choices") or ()):
                piece, named = choice.get("text") or "", choice.get("token_ids") or ()
                if piece or named:
                    last_s = time.perf_counter() - began
                    first_s = first_s or last_s
                text += piece
                ids += named
        count = usage.get("completion_tokens") if isinstance(usage, dict) else None
        if not isinstance(count, int):
            raise EndpointError(f"expected `usage` with completion_tokens in the stream, got {usage!r}")
        tokens = self._names(text, ids, count)
        return Answer(tokens, total_s=last_s or time.perf_counter() - began, first_token_s=first_s, num_written=count)

    def _names(self, text: str, ids: Sequence[int], count: int) -> tuple[int, ...]:
        """The tokens of the answer. `encode` is believed where it agrees with the count, an end token aside."""
        if ids:
            return cut(ids, self.stop_ids)
        encoded = self.encode(text) if self.encode else ()
        return tuple(encoded) if encoded and len(encoded) in (count, count - 1) else (UNKNOWN_TOKEN,) * count


def events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The JSON of each server-sent event up to [DONE]. EndpointError for a stream without it, or an error in it."""
    for line in response:
        name, _, value = line.decode(errors="replace").rstrip("\r\n").partition(":")
        value = value.removeprefix(" ")
        if name != "data":  # a comment, an empty line, the event's type
            continue
        if value == "[DONE]":
            return
        try:
            event = json.loads(value)
        except json.JSONDecodeError:
            raise EndpointError(f"expected JSON in an event, got {value[:80]!r}") from None
        if not is_object(event) or "error" in event:
            raise EndpointError(f"expected tokens in the stream, got an error: {value[:300]}")
        yield event
    raise EndpointError("the stream ended without [DONE]")


def is_object(value: object) -> bool:
    return isinstance(value, dict)
