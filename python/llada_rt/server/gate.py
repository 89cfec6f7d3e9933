"""Gate: the door of the server. Who may come in, how much may be brought, and what is written down of each visit.

Every request gets an answer of the server's own form, whatever goes wrong inside, and one line in the log, which never
holds what the request said.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import LladaRtError
from .errors import (
    AuthenticationError,
    BodyTimeoutError,
    BodyTooLargeError,
    DrainingError,
    HeadersTooLargeError,
    MediaTypeError,
    TooManyRequestsError,
    body_of,
    headers_of,
    internal,
    status_of,
)
from .keys import Keys, given_key
from .service import Service
from .sse import GONE, ClientGoneError

PROBES = ("/health", "/health/progress", "/ready")
_MODELS = "/v1/models/"
_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_FIXED_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
_GONE = 499  # in the log and in the metrics; nobody is there to be told

logger = logging.getLogger("llada_rt.server")


class Gate:
    """`paths`: those of the app, by which requests are counted. `open_paths`: those that need no key."""

    def __init__(
        self, app: ASGIApp, service: Service, keys: Keys, *, paths: Collection[str], open_paths: Collection[str]
    ) -> None:
        self._app, self._service, self._keys = app, service, keys
        self._paths, self._open_paths = frozenset(paths), frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Visit(self._service, scope, receive, send).make(self._app, self._check, self._label(scope))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    def _label(self, scope: Scope) -> str:
        path = route_path(scope)
        if path in self._paths:
            return path
        return f"{_MODELS}{{name}}" if path.startswith(_MODELS) else "other"

    def _check(self, scope: Scope) -> None:
        """Raises what keeps a request out."""
        settings, headers = self._service.settings, scope["headers"]
        size = len(scope["raw_path"] or b"") + len(scope["query_string"])
        if size + sum(len(name) + len(value) + 4 for name, value in headers) > settings.max_header_bytes:
            raise HeadersTooLargeError(f"headers: expected at most {settings.max_header_bytes} bytes")
        if self._keys.are_needed and route_path(scope) not in self._open_paths:
            key = given_key(headers)
            if key is None:
                raise AuthenticationError("an API key is needed: expected one Authorization: Bearer or X-Api-Key")
            if not self._keys.opens(key):
                raise AuthenticationError("the API key is not one of this server's")
        if scope["method"] == "POST":
            if self._service.is_draining:
                raise DrainingError("the server is about to stop and takes no more requests", hint="try again")
            if self._service.num_open >= settings.max_concurrent_requests:
                raise TooManyRequestsError(
                    f"{self._service.num_open} requests are open, and {settings.max_concurrent_requests} may be "
                    "(max_concurrent_requests)",
                    hint="try again when some have ended",
                )
            _check_body(headers, settings.max_body_bytes)


def route_path(scope: Scope) -> str:
    """The path as the app knows it: without that of a proxy, which the server has put before it."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _check_body(headers: list[tuple[bytes, bytes]], most: int) -> None:
    """What the headers say of the body."""
    said = {name: value for name, value in headers if name.startswith(b"content-")}
    kind = said.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != b"application/json":
        raise MediaTypeError("content-type: expected application/json", param="content-type")
    if said.get(b"content-encoding", b"identity").lower() != b"identity":
        raise MediaTypeError("content-encoding: expected a body that is not compressed", param="content-encoding")
    length = said.get(b"content-length", b"0")
    if length.isdigit() and int(length[:20]) > most:
        raise BodyTooLargeError(f"the body is too large: expected at most {most} bytes (max_body_bytes)")


class _Visit:
    """One request: its body counted, its answer watched."""

    def __init__(self, service: Service, scope: Scope, receive: Receive, send: Send) -> None:
        self._service, self._scope = service, scope
        self._receive_raw, self._send_raw = receive, send
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        self._id = given if _ID.fullmatch(given) else uuid.uuid4().hex.encode()
        self._status = 0  # none sent yet
        self._has_body = False  # all of it was received
        self._num_bytes = 0
        self._brings_body = any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
            for name, value in scope["headers"]
        )
        self._body_until = time.monotonic() + service.settings.body_timeout

    async def make(self, app: ASGIApp, check: Callable[[Scope], None], label: str) -> None:
        service, began = self._service, time.monotonic()
        is_counted = label not in PROBES
        status = 0
        try:
            check(self._scope)
            service.num_open += is_counted
            try:
                await app(self._scope, self._receive, self._send)
            finally:
                service.num_open -= is_counted
        except ClientGoneError:
            status = _GONE
        except asyncio.CancelledError:
            status = _GONE
            raise
        except LladaRtError as error:
            await self._refuse(error)
        except Exception as error:
            if not self._status:  # else the app has said so
                await self._refuse(internal(error))
        finally:
            status = status or (0 if self._scope.get(GONE) else self._status) or _GONE
            if status == _GONE:
                service.metrics.disconnects.inc()
            service.metrics.tell_request(label, status)
            logger.log(
                logging.DEBUG if label in PROBES else logging.INFO,
                "%s %s: %d in %.3f s, request %s",
                self._scope["method"],
                label,
                status,
                time.monotonic() - began,
                self._id.decode(),
                extra={"request_id": self._id.decode(), "endpoint": label, "status": status},
            )

    async def _refuse(self, error: LladaRtError) -> None:
        self._service.metrics.tell_rejected(error.code)
        if self._status:
            return  # an answer has begun: nothing can be said any more
        body = json.dumps(body_of(error)).encode()
        told = {"content-type": "application/json", "content-length": str(len(body)), **headers_of(error)}
        headers = [(name.encode(), value.encode()) for name, value in told.items()]
        await self._send({"type": "http.response.start", "status": status_of(error), "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def _receive(self) -> Message:
        if self._has_body:
            return await self._receive_raw()
        settings = self._service.settings
        try:
            message = await asyncio.wait_for(self._receive_raw(), max(0.0, self._body_until - time.monotonic()))
        except TimeoutError:
            raise BodyTimeoutError(f"the body did not come in {settings.body_timeout:g} s (body_timeout)") from None
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes > settings.max_body_bytes:
            raise BodyTooLargeError(
                f"the body is too large: expected at most {settings.max_body_bytes} bytes (max_body_bytes)"
            )
        self._has_body = not message.get("more_body", False)
        return message

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = [*message["headers"], (b"x-request-id", self._id), *_FIXED_HEADERS]
            is_read = self._has_body or not self._brings_body
            if self._service.is_draining or not is_read:  # what is left of the request is nobody's
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send_raw(message)
