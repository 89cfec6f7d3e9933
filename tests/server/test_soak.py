"""Many requests, of which some leave and some are wrong: memory, files and threads stay as they are. Minutes."""

import asyncio
import contextlib
import os
import random
import time
from pathlib import Path

import httpx
import pytest

from tests.server.running import process

ROUNDS, PER_ROUND, AT_ONCE = 12, 1500, 32
MOST_BYTES_A_REQUEST = 64


def memory_of(pid: int) -> tuple[int, int, int]:
    """Resident bytes, open files, threads."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return (
        pages * os.sysconf("SC_PAGE_SIZE"),
        len(list(Path(f"/proc/{pid}/fd").iterdir())),
        len(list(Path(f"/proc/{pid}/task").iterdir())),
    )


async def one(client: httpx.AsyncClient, chance: random.Random) -> None:
    body = {"prompt": "床前" * chance.randint(1, 5), "max_tokens": chance.randint(1, 60), "temperature": 1.0}
    body["stream"] = chance.random() < 0.5
    body["stream_mode" if body["stream"] else "logprobs"] = "denoise" if body["stream"] else 2
    if chance.random() < 0.1:
        body["max_tokens"] = -1
    patience = chance.uniform(0, 0.05) if chance.random() < 0.2 else 60
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(client.post("/v1/completions", json=body), patience)


async def one_round(url: str, chance: random.Random) -> None:
    limits = httpx.Limits(max_connections=AT_ONCE)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as client:
        waiting = asyncio.Semaphore(AT_ONCE)

        async def bounded() -> None:
            async with waiting:
                await one(client, chance)

        await asyncio.gather(*(bounded() for _ in range(PER_ROUND)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_stays_as_it_is(folder):
    chance = random.Random(1)
    with process("-m", str(folder), "--threads", "1") as (started, url):
        seen = []
        for _ in range(ROUNDS):
            asyncio.run(one_round(url, chance))
            until = time.monotonic() + 10  # connections are closed
            while seen and memory_of(started.pid)[1:] != seen[0][1:] and time.monotonic() < until:
                time.sleep(0.1)
            seen.append(memory_of(started.pid))
        half = ROUNDS // 2  # the first rounds warm up: pools, arenas, tables of tokens
        sizes = [size for size, _, _ in seen]
        growth = (min(sizes[half:][-3:]) - min(sizes[half - 3 : half])) / (half * PER_ROUND)
        assert growth <= MOST_BYTES_A_REQUEST, sizes
        assert {each[1:] for each in seen} == {seen[0][1:]}
        stats = httpx.get(f"{url}/health/progress").json()
        assert (stats["running"], stats["waiting"]) == (0, 0)
        assert 'llada_rt_memory_bytes{kind="kv_used",model_name="tiny"} 0.0' in httpx.get(f"{url}/metrics").text
