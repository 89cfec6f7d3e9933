"""AsyncEngine never holds up the event loop: what takes time is done beside it."""

import asyncio
import time

import pytest

from llada_rt import (
    AsyncEngine,
    ContextLengthError,
    ModelNotFoundError,
    SamplingParams,
)
from llada_rt import engine as engine_module
from llada_rt.runtime import intake
from llada_rt.text import requests
from tests.data.make_goldens import CHECKPOINT
from tests.engine.models import write_folder
from tests.engine.test_async import HOLE, OPTIONS, PARAMS


def test_the_event_loop_is_not_held_up(monkeypatch):
    async def main():
        async with AsyncEngine(CHECKPOINT, **OPTIONS) as service:
            denoise = service.engine._runner.denoise
            service.engine._runner.denoise = lambda plan: (time.sleep(0.2), denoise(plan))[1]
            tasks = [asyncio.create_task(service.generate([[n]], PARAMS, request_ids=[str(n)])) for n in range(3)]
            await asyncio.sleep(0.05)
            longest, last = 0.0, time.monotonic()
            for turn in range(60):
                if turn == 20:
                    tasks[0].cancel()
                    service.abort("1")
                    service.stats()
                    service.check_health()
                await asyncio.sleep(0.005)
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
            assert longest < 0.15, longest
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(results[0], asyncio.CancelledError)
            assert results[1][0].outputs[0].finish_reason == "abort"
            assert results[2][0].outputs[0].finish_reason in ("length", "stop")

    asyncio.run(main())


async def longest_pause(awaitable):
    """(result or error, the longest time in which the event loop stood still)."""
    task = asyncio.ensure_future(awaitable)
    longest, last = 0.0, time.monotonic()
    while not task.done():
        await asyncio.sleep(0.002)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    return (await asyncio.gather(task, return_exceptions=True))[0], longest


def test_requests_are_read_beside_the_event_loop(text_folder, monkeypatch):
    """Encoding, chat templates, expressions, draws: slow ones are slow for their own caller."""

    def slowly(work):
        return lambda *args, **kwargs: (time.sleep(0.4), work(*args, **kwargs))[1]

    async def main():
        async with await AsyncEngine.open(text_folder, threads=1) as service:
            engine = service.engine
            message = [{"role": "user", "content": "hi"}]
            encoded = "a" * 2000  # more than the context, and not more characters than are looked at
            streams = []

            async def first(*args):
                streams.append(service.stream(*args))
                return await anext(streams[-1])

            for owner, name, calls in (
                (
                    engine.tokenizer,
                    "encode",
                    [lambda: service.generate(encoded, PARAMS), lambda: first({"prompt": encoded}, PARAMS)],
                ),
                (
                    engine.tokenizer,
                    "render_chat",
                    [lambda: service.chat(message, PARAMS), lambda: first({"messages": message}, PARAMS)],
                ),
                (
                    requests,
                    "Grammar",
                    [lambda: service.generate("a", PARAMS.replace(regex="a+")), lambda: service.infill(["a", HOLE])],
                ),
                (intake, "draw_noise", [lambda: service.score("a", "b", mc_num=4)]),
                (requests, "read_template", [lambda: service.infill(["a", 2]), lambda: first({"segments": ["a", 2]})]),
            ):
                for call in calls:
                    with monkeypatch.context() as patch:
                        patch.setattr(owner, name, slowly(getattr(owner, name)))
                        result, pause = await longest_pause(call())
                    assert pause < 0.3, (name, pause)
                    assert not isinstance(result, Exception) or isinstance(result, ContextLengthError), result

    asyncio.run(main())


def test_an_expression_that_only_the_model_names_is_read_beside_the_event_loop(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "model", generation={"llada_rt": {"gen_length": 8, "regex": "a+"}})
    make = requests.Grammar
    monkeypatch.setattr(requests, "Grammar", lambda *args: (time.sleep(0.4), make(*args))[1])

    async def main():
        async with await AsyncEngine.open(folder, threads=1) as service:
            for params in (None, SamplingParams(seed=1)):
                result, pause = await longest_pause(service.generate("a", params))
                assert pause < 0.3
                assert set(result[0].text) == {"a"}

    asyncio.run(main())


def test_a_long_text_is_encoded_without_the_interpreters_lock():
    async def main():
        async with await AsyncEngine.open(threads=1) as service:
            tokenizer = service.engine.tokenizer
            text = "床前明月光，疑是地上霜 abc" * 30_000
            began = time.monotonic()
            result, pause = await longest_pause(asyncio.to_thread(tokenizer.encode, text))
            took = time.monotonic() - began
            assert pause < max(took / 2, 0.2), (pause, took)
            short = tokenizer.encode(text[:9000])
            assert result[: len(short) - 10] == short[:-10]

    asyncio.run(main())


def test_loading_can_be_awaited(monkeypatch):
    check = engine_module.check_folder
    monkeypatch.setattr(engine_module, "check_folder", lambda folder: time.sleep(0.4) or check(folder))

    async def main():
        service, pause = await longest_pause(AsyncEngine.open(CHECKPOINT, **OPTIONS))
        assert pause < 0.3, pause
        async with service:
            assert await service.generate([[1]], PARAMS)
        with pytest.raises(ModelNotFoundError):
            await AsyncEngine.open("nowhere")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(AsyncEngine.open(CHECKPOINT, **OPTIONS), 0.05)

    asyncio.run(main())
