"""A server in a thread, and the same as a process; what the tests look at in it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llada_rt
from llada_rt import AsyncEngine
from llada_rt.server.keys import Keys
from llada_rt.server.process import Server, address_of, listen
from llada_rt.server.service import Service
from llada_rt.server.settings import ServerSettings

ENVIRONMENT = os.environ | {
    "PYTHONPATH": f"{Path(llada_rt.__file__).parents[1]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    "GOMP_SPINCOUNT": "0",
}


@dataclass
class Running:
    url: str
    service: Service
    server: Server

    @property
    def engine(self) -> llada_rt.Engine:
        return self.service.core

    def metric(self, name: str, **labels: str) -> float:
        """A series' value; 0 where nothing was written yet."""
        value = self.service.metrics.registry.get_sample_value(
            f"llada_rt_{name}", {"model_name": self.service.names[0], **labels}
        )
        return value or 0.0


@contextlib.contextmanager
def running(
    folder: Path | None, *, engine: dict[str, Any] | None = None, send_buffer: int | None = None, **settings: Any
) -> Iterator[Running]:
    """`send_buffer`: what the kernel keeps of what a client has not read."""
    chosen = ServerSettings(**({"port": 0} | settings))
    listening = listen(chosen)
    if send_buffer is not None:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    made = AsyncEngine(folder, **({"threads": 1} | (engine or {})))
    service = Service(made, chosen)
    ready = threading.Event()
    server = Server(service, Keys(chosen), ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        assert ready.wait(10)
        yield Running(address_of(listening, chosen), service, server)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
        made.engine.close()
        listening.close()


def check_quiet(server: Running) -> None:
    """No request is open, and the engine holds nothing of one; at the latest when the step under way is over."""
    until = time.monotonic() + 10
    while True:
        stats = server.engine.stats()
        state = (stats.num_running, stats.num_waiting, stats.kv_used_bytes, server.service.num_open)
        if state == (0, 0, 0, 0) and not server.service._live:
            return
        assert time.monotonic() < until, (state, server.service._live)
        time.sleep(0.005)


def events_of(text: str) -> list[Any]:
    """The events of a stream; [DONE] as the word."""
    found = []
    for part in text.split("\n\n"):
        lines = [line for line in part.split("\n") if line.startswith("data: ")]
        if lines:
            data = lines[0].removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
    return found


@contextlib.contextmanager
def process(*arguments: str, environment: dict[str, str] | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`llada-rt serve` on a free port, and its address."""
    command = [sys.executable, "-m", "llada_rt", "serve", "--port", "0", *arguments]
    started = subprocess.Popen(
        command,
        env=ENVIRONMENT | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    try:
        assert started.stdout is not None
        yield started, started.stdout.readline().strip()
    finally:
        if started.poll() is None:
            started.kill()
        started.wait(10)
        for pipe in (started.stdout, started.stderr):
            if pipe is not None:
                pipe.close()
