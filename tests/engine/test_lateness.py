"""How late an engine hears: a call into the compiled loop ends in time for a deadline, an abort, another request,
whatever ran before."""

import asyncio
import threading
import time

import numpy as np
import pytest

from llada_rt import AsyncEngine, Engine, SamplingParams, _core
from llada_rt.runtime import stepper
from llada_rt.runtime.device import cpu_tables
from tests.data.make_goldens import CHECKPOINT, IDS
from tests.denoise.test_runtime import plan as plan_of

TINY = SamplingParams(gen_length=1, block_length=1, steps=1)
LONG = SamplingParams(gen_length=256, block_length=256, steps=256)
ROOM = 0.15  # seconds for a shared machine, beside the 0.05 that is promised


@pytest.fixture(params=cpu_tables())
def runtime(request):
    runtime = _core.Runtime(str(CHECKPOINT), compute_type="float32", table=request.param, num_threads=1)
    yield runtime
    runtime.close()


def steps_within(runtime, seconds: float) -> tuple[int, float]:
    length = 64
    slot = runtime.open_slot(np.full(length, IDS.mask, np.int32))
    everything = (0, length, length)
    schedule = {"block_start": 0, "block_stop": length, "num_masked": length, "num_steps": length}
    sequences, spans = plan_of(slot, spans=(everything, everything), **schedule)
    began = time.perf_counter()
    outcomes, _ = runtime.denoise(sequences, spans, length, max_seconds=seconds)
    took = time.perf_counter() - began
    runtime.close_slot(slot)
    return int(outcomes["num_steps"][0]), took


def test_a_call_ends_in_time(runtime):
    steps_within(runtime, 0)  # its memory is there then
    whole, took = steps_within(runtime, 0)
    assert whole == 64
    some, _ = steps_within(runtime, took / 4)
    assert 1 <= some < 64
    assert steps_within(runtime, 1e-9)[0] == 1  # one is always run


class Clock:
    """Stands for the module time: each step of the runner takes so many seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_calls_are_bounded_by_time_whatever_ran_before(monkeypatch):
    """A tiny request, then a long one whose steps take a hundred times as long."""
    clock = Clock()
    monkeypatch.setattr(stepper, "time", clock)
    with Engine(CHECKPOINT, compute_type="float32", threads=1, eot_token_id=None) as engine:
        runner = engine._runner
        denoise, calls = runner.denoise, []

        def scripted(plan):
            calls.append(plan.max_seconds)
            seconds = 0.0001 * len(plan.sequences[0].targets or range(plan.sequences[0].block.stop))
            num_steps = max(1, min(plan.max_steps, int(plan.max_seconds / seconds)))
            clock.now += num_steps * seconds
            return denoise(type(plan)(plan.sequences, num_steps))

        monkeypatch.setattr(runner, "denoise", scripted)
        engine.generate({"prompt_token_ids": [5, 6]}, TINY)
        engine.generate({"prompt_token_ids": [5, 6]}, LONG.replace(gen_length=96, block_length=96, steps=96))
    assert len(calls) > 10
    assert all(0 < seconds <= 0.05 for seconds in calls)


def test_an_abort_is_heard_within_a_step_after_a_tiny_request():
    with Engine(threads=1, max_num_seqs=4) as engine:
        engine.generate("床前明月光，", TINY)
        ended = []

        def generate() -> None:
            engine.generate("床前明月光，", LONG.replace(preset="reference"), request_ids=["long"])
            ended.append(time.perf_counter())

        thread = threading.Thread(target=generate)
        thread.start()
        while engine.stats().num_running == 0:
            time.sleep(0.001)
        time.sleep(0.05)
        asked = time.perf_counter()
        engine.abort("long")
        thread.join(30)
    assert ended[0] - asked < 0.05 + ROOM


@pytest.mark.parametrize("timeout_s", [0.1, 0.3])
def test_a_deadline_is_kept_after_a_tiny_request(timeout_s):
    with Engine(threads=1) as engine:
        engine.generate("床前明月光，", TINY)
        began = time.perf_counter()
        output = engine.generate("床前明月光，", LONG.replace(timeout_s=timeout_s))[0]
        took = time.perf_counter() - began
    if output.outputs[0].finish_reason == "timeout":  # a fast machine may be through
        assert timeout_s - 0.05 <= took < timeout_s + 0.05 + ROOM


async def _first_step(engine: AsyncEngine) -> float:
    began = time.perf_counter()
    async for _ in engine.stream("床前明月光，", TINY):
        break
    return time.perf_counter() - began


def test_another_request_begins_soon():
    async def main() -> float:
        async with AsyncEngine(threads=1, max_num_seqs=4) as engine:
            await engine.generate("床前明月光，", TINY)
            long = asyncio.ensure_future(engine.generate("床前明月光，", LONG))
            await asyncio.sleep(0.05)
            late = await _first_step(engine)
            long.cancel()
            return late

    assert asyncio.run(main()) < 2 * 0.05 + 2 * ROOM
