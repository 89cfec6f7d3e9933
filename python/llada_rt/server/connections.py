"""Connections: uvicorn's protocol with bounds on what no application sees of a request, its line and headers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .errors import HeadersTooLargeError, MalformedBodyError, body_of, status_of
from .settings import ServerSettings
from .sse import ABORT

_LINGER_S = 0.5
_REASONS = {400: b"Bad Request", 431: b"Request Header Fields Too Large"}


def bounded(settings: ServerSettings) -> type[asyncio.Protocol]:
    """The class of a server's connections."""

    class Bounded(_Bounded):
        most = settings.max_header_bytes
        patience_s = settings.header_timeout

    return Bounded


class _Bounded(HttpToolsProtocol):
    most: int
    patience_s: float

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._is_in_head = True  # between requests too, where nothing has come
        self._num_head_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._is_refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._is_in_head:
            if self._deadline is None:
                self._wait_for_head()
            self._num_head_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and self._num_head_bytes > self.most and not self.transport.is_closing():
            error = HeadersTooLargeError(f"headers: expected at most {self.most} bytes (max_header_bytes)")
            self._refuse(status_of(error), json.dumps(body_of(error)).encode())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True
        # Ends a connection whose buffers nobody reads, which closing would wait for.
        self.scope["extensions"] = {ABORT: self.transport.abort}  # type: ignore[dict-item]

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._num_head_bytes = 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_in_head = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is told so in the server's own form."""
        self._refuse(400, json.dumps(body_of(MalformedBodyError("the request is no HTTP that can be read"))).encode())

    def _refuse(self, status: int, body: bytes) -> None:
        head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (status, _REASONS[status], len(body)) + body)
        # A connection that is closed while its client writes is reset, and the client may never read why.
        self._is_refused = True
        self._stop_waiting()
        self._deadline = self.loop.call_later(_LINGER_S, self.transport.close)

    def _wait_for_head(self) -> None:
        self._deadline = self.loop.call_later(self.patience_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self._is_in_head and not self.transport.is_closing():
            self.transport.close()
