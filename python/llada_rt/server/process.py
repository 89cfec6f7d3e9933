"""The process of `llada-rt serve`: its sockets, its signals, its end.

SIGTERM or SIGINT: no new requests, those under way go on; when they have ended, or `shutdown_timeout` is over, the
process leaves. A second signal does not wait. SIGHUP reads the file of API keys again.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from ..async_engine import AsyncEngine
from ..errors import ConfigError, LladaRtError
from ..log import logger
from .app import make_app
from .connections import bounded
from .keys import Keys
from .service import Service
from .settings import ServerSettings

BACKLOG = 2048
_KEEP_ALIVE_S = 30  # longer than clients keep a connection: else one is closed while a request is on its way
_LAST_WORDS_S = 5  # for answers that end with the server


def serve(
    model: str | None,
    engine_options: Mapping[str, Any],
    settings: ServerSettings,
    tell: Callable[[str], None],
) -> int:
    """Serve until a signal. `tell`: is told the address once requests are welcome. The number of requests aborted.

    Raises ConfigError for an address that cannot be had, and what the engine raises.
    """
    keys = Keys(settings)
    _check_certificate(settings)
    if not settings.is_loopback and not keys.are_needed:
        logger.warning(
            "listening on %s without an API key: whoever reaches this address may use the model (--api-key-file)",
            settings.host,
        )
    listening = listen(settings)
    engine = AsyncEngine(model, **engine_options)
    try:
        service = Service(engine, settings)
        server = Server(service, keys, lambda: tell(address_of(listening, settings)))
        server.run(sockets=[listening])
        return server.num_aborted
    finally:
        engine.engine.close()
        listening.close()
        if settings.uds is not None:
            Path(settings.uds).unlink(missing_ok=True)


def _check_certificate(settings: ServerSettings) -> None:
    """Before a model is loaded for nothing."""
    if settings.ssl_certfile is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile)
    except OSError as error:  # ssl's own errors are of this kind
        raise ConfigError(
            f"ssl_certfile, ssl_keyfile: cannot be used: {error.strerror or error}", param="ssl_certfile"
        ) from error


class Server(uvicorn.Server):
    """uvicorn's, which by itself stops to listen before it has answered."""

    def __init__(self, service: Service, keys: Keys, ready: Callable[[], None]) -> None:
        settings = service.settings
        super().__init__(
            uvicorn.Config(
                make_app(service, keys),
                http=bounded(settings),
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                root_path=settings.root_path,
                ssl_certfile=settings.ssl_certfile,
                ssl_keyfile=settings.ssl_keyfile,
                timeout_graceful_shutdown=_LAST_WORDS_S,
                timeout_keep_alive=_KEEP_ALIVE_S,
                backlog=BACKLOG,
            )
        )
        self._service, self._keys, self._ready = service, keys, ready
        self._drain_until: float | None = None
        self.num_aborted = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """From a signal: at once, no new requests."""
        now = time.monotonic()
        self._drain_until = now if self._service.is_draining else now + self._service.settings.shutdown_timeout
        self._service.is_draining = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second. True: leave."""
        if self._drain_until is not None:
            if self._service.num_open == 0:
                return True
            if time.monotonic() >= self._drain_until:
                self.num_aborted = self._service.abort_all()
                return True
        return bool(await super().on_tick(counter))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGHUP, self._reload)
        try:
            with super().capture_signals():
                yield
        finally:
            signal.signal(signal.SIGHUP, before)

    def _reload(self, sig: int, frame: FrameType | None) -> None:
        try:
            self._keys.load()
        except LladaRtError as error:
            logger.error("the API keys stay as they were: %s", error)


def listen(settings: ServerSettings) -> socket.socket:
    """A socket that is bound; requests wait in it until the server is there."""
    if settings.uds is not None:
        return _listen_at_path(settings.uds)
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        # By its protocol asyncio knows a connection for TCP's and sends small pieces at once.
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise ConfigError(f"host: {settings.host} cannot be listened on: {error.strerror}", param="host") from error
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise ConfigError(
            f"port: {settings.host}:{settings.port} cannot be had: {error.strerror}",
            param="port",
            hint="another --port, or 0 for a free one",
        ) from error
    return made


def _listen_at_path(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        made.bind(path)
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise ConfigError(f"uds: {path} cannot be had: {error.strerror or error}", param="uds") from error
    return made


def _remove_stale(path: str) -> None:
    """A socket that nobody listens on any more; anything else stays, and then cannot be bound."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
            try:
                trial.connect(path)
            except ConnectionRefusedError:
                Path(path).unlink()


def address_of(listening: socket.socket, settings: ServerSettings) -> str:
    """Where it may be called."""
    if settings.uds is not None:
        return f"unix:{settings.uds}"
    host, port = listening.getsockname()[:2]
    scheme = "https" if settings.ssl_certfile else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
