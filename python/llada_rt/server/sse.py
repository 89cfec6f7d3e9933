"""Server-sent events: an answer that is sent while it is made.

What is made goes into a buffer at once, so the engine's own queue of events stays short. A client is cut that takes
nothing for two seconds and has left more than `max_unread_bytes` by then, or takes nothing for `write_timeout`: what it
costs is bounded. A client that goes away ends its request after the step under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..errors import LladaRtError
from .errors import body_of, internal
from .service import Service, Stream

ABORT = "llada_rt.abort"  # of scope["extensions"]: ends a connection whose buffers nobody reads
PATIENCE_S = 2.0  # with a client that has much to read: its network may stall for a moment
GONE = "llada_rt.gone"  # in the scope of a stream whose client went away, or was cut
DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"


def event_of(value: Any, name: str | None = None) -> bytes:
    """One event. JSON has no line breaks of its own."""
    head = f"event: {name}\n" if name else ""
    return head.encode() + b"data: " + dumped(value) + b"\n\n"


def dumped(value: Any) -> bytes:
    """JSON. Half a surrogate, which UTF-8 cannot write, stays as JSON escapes it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "backslashreplace")


class ClientGoneError(Exception):
    """The client went away; nobody is there to be answered."""


class Events(Response):
    """`pieces`: what is sent, made of the events of `streams` as they come. An error of theirs is the last event."""

    media_type = "text/event-stream"

    def __init__(
        self,
        service: Service,
        streams: Sequence[Stream],
        pieces: AsyncGenerator[bytes, None],
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(headers={**headers, "cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._service = service
        self._streams = streams
        self._pieces = pieces
        self._buffer = bytearray()
        self._news = asyncio.Event()
        self._sending_since: float | None = None  # what the client has not taken yet
        self._is_made = False  # all that will come is in the buffer
        self._is_cut = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        making = asyncio.create_task(self._make())
        leaving = asyncio.create_task(_gone(receive))
        sending = asyncio.create_task(self._send(send))
        try:
            await asyncio.wait({making, leaving, sending}, return_when=asyncio.FIRST_COMPLETED)
            if not self._is_cut:
                await asyncio.wait({leaving, sending}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and not self._is_cut:
                await sending
                return
            scope[GONE] = True
            if self._is_cut:
                self._service.metrics.cut.inc()
                scope.get("extensions", {}).get(ABORT, lambda: None)()
                await asyncio.wait({leaving}, timeout=1)  # until the server knows
        finally:
            for task in (making, leaving, sending):
                task.cancel()
            await asyncio.gather(making, leaving, sending, return_exceptions=True)
            await self._pieces.aclose()
            for stream in self._streams:
                await stream.aclose()

    async def _make(self) -> None:
        try:
            async for piece in self._pieces:
                self._buffer += piece
                self._news.set()
                if self._is_too_slow():
                    self._is_cut = True
                    return
        except LladaRtError as error:
            self._tell(error)
        except Exception as error:
            self._tell(internal(error))
        finally:
            self._is_made = True
            self._news.set()

    def _is_too_slow(self) -> bool:
        since = self._sending_since
        if since is None or len(self._buffer) <= self._service.settings.max_unread_bytes:
            return False
        return time.monotonic() - since > PATIENCE_S

    def _tell(self, error: LladaRtError) -> None:
        self._service.metrics.tell_rejected(error.code)
        self._buffer += event_of(body_of(error))

    async def _send(self, send: Send) -> None:
        settings = self._service.settings
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), settings.ping_interval)
            self._news.clear()
            is_last = self._is_made
            piece = bytes(self._buffer) or (b"" if is_last else PING)
            self._buffer.clear()
            self._sending_since = time.monotonic()
            try:
                message = {"type": "http.response.body", "body": piece, "more_body": not is_last}
                await asyncio.wait_for(send(message), settings.write_timeout)
            except TimeoutError:
                self._is_cut = True
                return
            self._sending_since = None
            if is_last:
                return


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
