"""Requests that come when they come: Poisson arrivals at an AsyncEngine, and how long each of them waits."""

import asyncio
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llada_rt import AsyncEngine, RequestOutput, SamplingParams

Work = Sequence[tuple[list[int], SamplingParams]]


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds from the moment a request was due, as its caller sees them."""

    first_text_s: float  # the first position of the response has its token: a first piece can be sent
    first_block_s: float  # the first block is committed
    total_s: float
    output: RequestOutput | None = None


def arrival_times(rate: float, count: int, seed: int = 0) -> list[float]:
    """Seconds from the start; gaps drawn from an exponential distribution with mean 1 / rate."""
    choice, now, times = random.Random(seed), 0.0, []
    for _ in range(count):
        now += choice.expovariate(rate)
        times.append(now)
    return times


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of them do not exceed (nearest rank): p99 of less than 100 is the largest."""
    return sorted(values)[math.ceil(percent / 100 * len(values)) - 1]


async def serve(
    engine: AsyncEngine, work: Work, times: Sequence[float], *, done: Callable[[Latency], object] = lambda latency: None
) -> list[Latency]:
    """Streams each request from its time on; `done` hears of each that is through.

    Waits are counted from the time a request was due, not from when the client got round to sending it.
    """
    began = time.perf_counter()

    async def one(at: float, prompt: list[int], params: SamplingParams) -> Latency:
        due = began + at
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        first_text = first_block = math.inf
        output = None
        async for event in engine.stream(prompt, params, mode="denoise"):
            waited, output = time.perf_counter() - due, event.output or output
            block = event.canvas[event.prompt_length :][: params.block_length]
            if block[0] != engine.engine.mask_token_id:
                first_text = min(first_text, waited)
            if engine.engine.mask_token_id not in block:
                first_block = min(first_block, waited)
        latency = Latency(first_text, first_block, time.perf_counter() - due, output)
        done(latency)
        return latency

    return await asyncio.gather(*(one(at, *each) for at, each in zip(times, work, strict=True)))
