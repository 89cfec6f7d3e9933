"""A small service around AsyncEngine over loopback: requests a second with one client and with many, and its memory.

FastAPI on uvicorn (service_app.py) is a process of its own, httpx this one; both share the processors with the engine.
Every client asks the demo model the same question, the next line of a poem with the preset `fast`, and asks again as
soon as it has the answer, which must be the engine's own. The resident memory of the server is read after every round.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Timing
from benchmarks.measure import percentiles
from benchmarks.noise import TICKS, Neighbours, mark
from benchmarks.plan import Plan
from benchmarks.progress import Progress
from benchmarks.report import LATENCY, SPREAD, Column, Report, number
from llada_rt import ConfigError, Engine, SamplingParams

QUESTION = "床前明月光的下一句是什么？ 直接输出句子即可。"
PARAMS: dict[str, Any] = {"preset": "fast"}
CLIENTS = (1, 32)
REQUESTS = 400  # in a round: five rounds of two are 4,000
FLAT = 0.02  # growth of the memory that is none
HINT = "pip install '.[service]' for fastapi, uvicorn and httpx"

COLUMNS: tuple[Column, ...] = (
    ("clients", lambda r: str(r["clients"])),
    ("requests/s", lambda r: number(r["requests_per_s"]) + ("*" if r["partial"] else "") + mark(r)),
    SPREAD,
    ("by CPU", lambda r: number(r["requests_per_cpu_s"])),
    LATENCY,
)


class Server:
    """The service in a process of its own, ready to answer."""

    def __init__(self, engine_options: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "benchmarks.service_app", json.dumps(engine_options)]
        # A session of its own: Ctrl-C is for the client, which ends the service when what was measured is kept.
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self.process.stdout is not None
        port = self.process.stdout.readline().strip()
        if not port:
            raise ConfigError(
                f"bench_service: the service ended with exit code {self.process.wait()} before it served", hint=HINT
            )
        self.address = f"http://127.0.0.1:{port}"
        self._proc = Path("/proc", str(self.process.pid))

    def resident_bytes(self) -> int | None:
        """None where the system does not tell."""
        try:
            return int((self._proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            return None

    def cpu_s(self) -> float:
        """Seconds of processor time; 0 where the system does not tell."""
        try:
            return sum(map(int, (self._proc / "stat").read_text().rpartition(")")[2].split()[11:13])) / TICKS
        except OSError:
            return 0.0

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@dataclass
class Taken:
    """The rounds with one number of clients. Seconds."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # of the server
    latencies: list[float] = field(default_factory=list)

    def row(self, clients: int, requests: int, foreign: float | None, partial: str | None) -> dict[str, Any]:
        timing = Timing(tuple(self.wall), tuple(self.cpu), foreign)
        return {
            "system": f"ours, {clients} client{'s' * (clients > 1)}",
            "clients": clients,
            "requests": requests,
            "rounds": len(self.wall),
            "check": None,
            "partial": partial,
            "requests_per_s": requests / timing.wall_s,
            "requests_per_cpu_s": requests / timing.cpu_s if timing.cpu_s else None,
            "wall_s": timing.wall_s,
            "cpu_s": timing.cpu_s,
            "latency_s": percentiles(self.latencies),
            **timing.noise,
        }


async def one_round(client: Any, clients: int, requests: int, expected: str) -> list[float]:
    """Seconds that each request took: each of the clients asks again as soon as it has its answer."""
    body = {"messages": [{"role": "user", "content": QUESTION}], "params": PARAMS}
    left, latencies = iter(range(requests)), []

    async def ask() -> None:
        for _ in left:
            began = time.perf_counter()
            response = await client.post("/chat", json=body)
            latencies.append(time.perf_counter() - began)
            if response.status_code != 200 or response.json()["text"] != expected:
                raise SystemExit(
                    f"expected the answer {expected!r}, got {response.status_code} {response.text[:200]!r}"
                )

    await asyncio.gather(*(ask() for _ in range(clients)))
    return latencies


def run(plan: Plan, clients: Sequence[int] = CLIENTS, requests: int = REQUESTS) -> Report:
    """`plan.repeats` rounds of `requests` with each number of clients; the quick version: rounds of 50."""
    requests = min(requests, 50) if plan.quick else requests
    report = plan.report(
        "service", "A service on FastAPI over loopback: the demo model, one question", requests=requests
    )
    with Engine(threads=plan.threads) as engine:
        expected = engine.chat([{"role": "user", "content": QUESTION}], SamplingParams(**PARAMS)).text
    taken = {count: Taken() for count in clients}
    resident: list[int | None] = []  # after each round
    partial, neighbours = None, None
    progress = Progress("service", (1 + plan.repeats) * len(clients))
    server = Server({"threads": plan.threads})
    try:
        for count in clients:
            progress.step(f"{count} clients, to warm up")
            asyncio.run(ask_round(server, count, requests, expected))
        neighbours = Neighbours()
        for _ in range(plan.repeats):
            for count, each in taken.items():
                progress.step(f"{count} clients")
                wall, cpu = time.perf_counter(), server.cpu_s()
                latencies = asyncio.run(ask_round(server, count, requests, expected))
                each.wall.append(time.perf_counter() - wall)
                each.cpu.append(server.cpu_s() - cpu)
                each.latencies += latencies
                resident.append(server.resident_bytes())
    except KeyboardInterrupt:
        partial = f"interrupted after {len(resident)} of {plan.repeats * len(clients)} rounds"
        raise
    finally:
        progress.close()
        foreign = neighbours.share() if neighbours is not None else None
        server.close()
        report.rows += [each.row(count, requests, foreign, partial) for count, each in taken.items() if each.wall]
        report.findings += memory_findings(resident, requests)
    return report


async def ask_round(server: Server, clients: int, requests: int, expected: str) -> list[float]:
    try:
        import httpx
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"bench_service: needs the package {error.name}, which is not installed", hint=HINT
        ) from error
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=server.address, limits=limits, timeout=60) as client:
        return await one_round(client, clients, requests, expected)


def memory_findings(resident: Sequence[int | None], requests: int) -> list[str]:
    """What the memory of the server does while it serves, from the first counted round on."""
    known = [num_bytes for num_bytes in resident if num_bytes is not None]
    if len(known) < 2:
        return []
    growth = known[-1] / known[0] - 1
    return [
        f"resident memory of the server: {known[0] / 2**20:.1f} MiB after {requests} requests, "
        f"{known[-1] / 2**20:.1f} MiB after {requests * len(known):,} ({growth:+.1%}): "
        + ("flat" if growth <= FLAT else "it GROWS")
    ]
