"""AsyncEngine: the same answers, cancellation by task, and an event loop that is never held up."""

import asyncio
import gc
import random
import threading
import time
import weakref

import pytest

from llada_rt import (
    AsyncEngine,
    ContextLengthError,
    DeviceError,
    Engine,
    EngineClosedError,
    Hole,
    InternalError,
    InvalidRequestError,
    ModelNotFoundError,
    QueueFullError,
    SamplingParams,
    TokenizerError,
    requests,
)
from llada_rt import engine as engine_module
from llada_rt.runner import Runner
from tests.data.make_goldens import CHECKPOINT, IDS

OPTIONS = {"compute_type": "float32", "threads": 2, "eot_token_id": IDS.eot}
PARAMS = SamplingParams(gen_length=16, block_length=4, preset="quality", seed=1)
HOLE = Hole(3, regex="[a-z]+")
LONG = SamplingParams(gen_length=100, block_length=1, preset="quality", eos_early_stop=False)


def tokens(outputs):
    return [output.outputs[0].token_ids for output in outputs]


async def idle(engine):
    """Its counters back at zero within a second."""
    for _ in range(200):
        stats = engine.stats()
        if (stats.num_running, stats.num_waiting, stats.kv_used_bytes) == (0, 0, 0):
            return
        await asyncio.sleep(0.005)
    raise AssertionError(stats)


def test_answers_are_those_of_engine(engine: Engine):
    async def main():
        async with AsyncEngine(CHECKPOINT, **OPTIONS) as service:
            many = await asyncio.gather(*(service.generate([[n], [n, n]], PARAMS) for n in range(20)))
            for n, outputs in enumerate(many):
                assert tokens(outputs) == tokens(engine.generate([[n], [n, n]], PARAMS))
            assert (await service.infill([[1], 3], PARAMS)).outputs == engine.infill([[1], 3], PARAMS).outputs
            assert await service.score([1], [2, 3], mc_num=20) == engine.score([1], [2, 3], mc_num=20)
            assert ((await service.forward([1, 2])) == engine.forward([1, 2])).all()
            for mode in ("append", "denoise"):
                events = [event async for event in service.stream([1, 2], PARAMS, mode=mode)]
                assert tokens([events[-1].output]) == tokens(engine.generate([[1, 2]], PARAMS))
            # Its Engine is there for other threads.
            assert tokens(await asyncio.to_thread(service.engine.generate, [[7]], PARAMS)) == tokens(
                engine.generate([[7]], PARAMS)
            )
            await idle(service)

    asyncio.run(main())


def test_text_and_chat(text_folder):
    async def main():
        async with AsyncEngine(text_folder, threads=1) as service:
            output = await service.chat([{"role": "user", "content": "hi"}], PARAMS)
            told = [
                e.text_delta
                async for e in service.stream({"messages": [{"role": "user", "content": "hi"}]}, PARAMS, mode="append")
            ]
            assert "".join(told) == output.text

    asyncio.run(main())


def test_errors_come_as_they_are():
    async def main():
        async with AsyncEngine(CHECKPOINT, **OPTIONS, max_num_seqs=1, max_num_queued_reqs=3) as service:
            with pytest.raises(InvalidRequestError):
                await service.generate([[999]], PARAMS)
            with pytest.raises(InvalidRequestError):
                service.stream([], PARAMS)
            calls = [asyncio.create_task(service.generate([[n]], LONG)) for n in range(30)]
            done = await asyncio.gather(*calls, return_exceptions=True)
            refused = [result for result in done if isinstance(result, QueueFullError)]
            assert refused
            assert len(refused) < 30
            await idle(service)
            assert await service.generate([[1]], PARAMS)

    asyncio.run(main())


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


async def cancel_at_random(number, seed):
    choice = random.Random(seed)
    async with AsyncEngine(CHECKPOINT, **OPTIONS, max_num_seqs=4, max_num_queued_reqs=64) as service:
        expected = await service.generate([[1, 2, 3]], PARAMS)
        steady = [asyncio.create_task(service.generate([[1, 2, 3]], PARAMS)) for _ in range(4)]

        async def read(stream):
            async for _ in stream:
                await asyncio.sleep(0)

        def victim():
            kind = choice.randrange(5)
            params = LONG.replace(cfg_scale=choice.choice([0, 1.0]), n=choice.choice([1, 2]))
            if kind == 0:
                return service.score([1, 2], [3] * 9, mc_num=64)
            if kind == 1:
                return read(service.stream([choice.randrange(99)], params))
            return service.generate([[choice.randrange(99)]], params)

        for _ in range(number):
            task = asyncio.create_task(victim())
            await asyncio.sleep(choice.choice([0, 0.0005, 0.002, 0.01]))
            task.cancel()
            if choice.random() < 0.5:
                await asyncio.gather(task, return_exceptions=True)
            if choice.random() < 0.05:
                steady.append(asyncio.create_task(service.generate([[1, 2, 3]], PARAMS)))
        for outputs in await asyncio.gather(*steady):
            assert tokens(outputs) == tokens(expected)
        await idle(service)
        assert service.engine._dispatcher._stepper.jobs == {}
        assert service.engine._dispatcher._stepper._job_of == {}
        assert service.engine.num_open_slots == 0


def test_a_hundred_cancellations():
    asyncio.run(cancel_at_random(100, 0))


@pytest.mark.slow
def test_two_thousand_cancellations():
    asyncio.run(cancel_at_random(2000, 1))


def test_a_bug_in_a_step_is_told_to_all_and_the_next_request_is_answered():
    async def main():
        async with AsyncEngine(CHECKPOINT, **OPTIONS) as service:
            stepper = service.engine._dispatcher._stepper
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(stepper, "step", lambda: [][0])
                calls = [service.generate([[n]], PARAMS) for n in range(3)]
                for result in await asyncio.gather(*calls, return_exceptions=True):
                    assert isinstance(result, InternalError)
                    assert "IndexError" in str(result)
            assert await service.generate([[1]], PARAMS)
            await idle(service)

    asyncio.run(main())


def test_leaving_a_stream_cancels():
    async def main():
        async with AsyncEngine(CHECKPOINT, **OPTIONS) as service:
            async for _ in (stream := service.stream([1], LONG)):
                break
            await stream.aclose()
            await idle(service)
            never_started = service.stream([1], LONG)
            del never_started
            gc.collect()
            await idle(service)

    asyncio.run(main())


def test_close_ends_what_is_under_way():
    async def main():
        service = AsyncEngine(CHECKPOINT, **OPTIONS)
        calls = [asyncio.create_task(service.generate([[n]], LONG)) for n in range(20)]
        await asyncio.sleep(0.02)
        await service.close()
        await service.close()
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, EngineClosedError) or result[0].outputs
        with pytest.raises(EngineClosedError):
            await service.generate([[1]], PARAMS)
        with pytest.raises(EngineClosedError):
            async with service:
                pass
        assert not service._thread.is_alive()

    asyncio.run(main())


def test_from_one_event_loop_after_another():
    service = AsyncEngine(CHECKPOINT, **OPTIONS)

    async def leave_in_the_middle():
        asyncio.get_running_loop().create_task(service.generate([[1]] * 3, LONG))
        await asyncio.sleep(0.01)

    async def ask():
        return await service.generate([[1]], PARAMS)

    asyncio.run(leave_in_the_middle())
    first = asyncio.run(ask())
    assert tokens(asyncio.run(ask())) == tokens(first)
    asyncio.run(service.close())


class Panic(BaseException):
    """As a panic of a Rust library looks: no Exception."""


def test_a_panic_in_a_step_is_told_to_all_and_the_next_request_is_answered():
    async def main():
        async with AsyncEngine(CHECKPOINT, **OPTIONS) as service:

            def fail():
                raise Panic("planted")

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(service.engine._dispatcher._stepper, "step", fail)
                calls = [service.generate([[n]], PARAMS) for n in range(3)]
                for result in await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 30):
                    assert isinstance(result, InternalError)
                    assert "planted" in str(result)
            service.check_health()
            assert await asyncio.wait_for(service.generate([[1]], PARAMS), 30)

    asyncio.run(main())


@pytest.mark.parametrize("place", ["step", "_settle", "in_turn", "get"])
def test_when_the_thread_ends_so_do_its_requests_and_health_says_so(place, monkeypatch):
    async def main():
        async with AsyncEngine(CHECKPOINT, **OPTIONS) as service:
            dispatcher = service.engine._dispatcher
            thread = service._thread

            def end(*args):
                if threading.current_thread() is thread:
                    raise SystemExit if place == "step" else MemoryError("planted")

            def in_turn(original=dispatcher.in_turn):
                end()
                return original()

            owner, name, fault = {
                "step": (dispatcher._stepper, "step", end),
                "_settle": (dispatcher, "_settle", end),
                "in_turn": (dispatcher, "in_turn", in_turn),
                "get": (dispatcher, "serve_all", end),
            }[place]
            monkeypatch.setattr(owner, name, fault)

            async def read():
                return [event async for event in service.stream([1], LONG)]

            calls = [service.generate([[1], [2]], LONG), service.score([1], [2], mc_num=500), read()]
            for result in await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 30):
                assert isinstance(result, InternalError), result
            monkeypatch.undo()
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive()
            for check in (service.check_health, service.engine.check_health):
                with pytest.raises(InternalError, match="has ended"):
                    check()
            for call in (service.generate([1], PARAMS), service.score([1], [2]), anext(service.stream([1], PARAMS))):
                with pytest.raises(InternalError, match="has ended"):
                    await asyncio.wait_for(call, 10)
            assert service.engine.generate([1], PARAMS)  # who steps needs no thread

    asyncio.run(main())


def test_a_panic_of_the_tokenizer_is_a_typed_error_of_its_request(text_folder):
    PanicException = type("PanicException", (BaseException,), {})

    class Panics:
        def __init__(self, backend, names):
            self._backend, self._names = backend, names

        def __getattr__(self, name):
            if name in self._names:
                raise PanicException("planted")
            return getattr(self._backend, name)

    async def main():
        async with AsyncEngine(text_folder, threads=1) as service:
            tokenizer = service.engine.tokenizer
            backend = tokenizer._backend
            other = asyncio.create_task(service.generate([[1]], LONG))
            for name in ("encode", "decode"):
                tokenizer._backend = tokenizer._detokenizer._backend = Panics(backend, {name})
                with pytest.raises(TokenizerError, match="planted"):
                    await asyncio.wait_for(service.generate("abc", PARAMS), 30)
                with pytest.raises(TokenizerError, match="planted"):
                    await asyncio.to_thread(service.engine.generate, "abc", PARAMS)
                if name == "decode":
                    with pytest.raises(TokenizerError, match="planted"):
                        await anext(service.stream([1], PARAMS.replace(stop=["x"]), mode="append"))
                tokenizer._backend = tokenizer._detokenizer._backend = backend
            service.check_health()
            assert await service.generate("abc", PARAMS)
            other.cancel()
            await asyncio.gather(other, return_exceptions=True)

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
                (engine_module, "draw_noise", [lambda: service.score("a", "b", mc_num=4)]),
                (requests, "read_template", [lambda: service.infill(["a", 2]), lambda: first({"segments": ["a", 2]})]),
            ):
                for call in calls:
                    with monkeypatch.context() as patch:
                        patch.setattr(owner, name, slowly(getattr(owner, name)))
                        result, pause = await longest_pause(call())
                    assert pause < 0.3, (name, pause)
                    assert not isinstance(result, Exception) or isinstance(result, ContextLengthError), result

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
    monkeypatch.setattr(
        engine_module, "check_folder", lambda folder, check=engine_module.check_folder: (time.sleep(0.4), check(folder))
    )

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


def test_more_prompts_than_may_wait_wait_for_a_place(engine: Engine):
    async def main():
        async with AsyncEngine(CHECKPOINT, **OPTIONS, max_num_seqs=2, max_num_queued_reqs=3) as service:
            prompts = [[n] for n in range(40)]
            outputs = await asyncio.wait_for(service.generate(prompts, PARAMS), 60)
            assert tokens(outputs) == tokens(engine.generate(prompts, PARAMS))
            # Two such calls, and one in between: nobody is refused for ever, and they leave room.
            calls = [asyncio.create_task(service.generate(prompts, PARAMS)) for _ in range(2)]
            results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 60)
            done = [result for result in results if not isinstance(result, QueueFullError)]
            assert done
            assert all(tokens(result) == tokens(outputs) for result in done)
            # Cancelled in the middle.
            task = asyncio.create_task(service.generate(prompts, LONG))
            await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await idle(service)

    asyncio.run(main())


def test_a_stream_says_before_its_first_event_what_is_wrong():
    async def main():
        async with AsyncEngine(CHECKPOINT, **OPTIONS, max_num_seqs=1, max_num_queued_reqs=2) as service:
            denoise = service.engine._runner.denoise
            service.engine._runner.denoise = lambda plan: (time.sleep(0.05), denoise(plan))[1]
            calls = [asyncio.create_task(service.generate([[1]], LONG)) for _ in range(3)]
            while service.stats().num_waiting < 2:
                await asyncio.sleep(0.001)
            for stream in (service.stream, service.engine.stream):
                with pytest.raises(QueueFullError, match="2 requests wait, and 2 may"):
                    stream([1], PARAMS)
                with pytest.raises(InvalidRequestError, match="mode"):
                    stream([1], PARAMS, mode="both")
                with pytest.raises(InvalidRequestError, match="request_id"):
                    stream([1], PARAMS, request_id="")
                with pytest.raises(InvalidRequestError, match="params"):
                    stream([1], 3)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await idle(service)
            late = service.stream({"prompt_token_ids": []}, PARAMS)
            with pytest.raises(InvalidRequestError, match="empty"):
                await late.start()
            with pytest.raises(StopAsyncIteration):
                await anext(late)
            good = await service.stream([1], PARAMS).start()
            assert service.stats().num_running + service.stats().num_waiting + len(good._job.events) > 0
            assert [event async for event in good][-1].finished
            await good.aclose()
            await idle(service)

    asyncio.run(main())


def test_dropped_without_close_it_is_freed(engine: Engine):
    gone = []
    for number in range(3):
        service = AsyncEngine(CHECKPOINT, **OPTIONS)
        if number:
            asyncio.run(service.generate([[1]], PARAMS))
        gone.append((weakref.ref(service.engine), weakref.ref(service.engine._runner), service._thread))
        del service
    gc.collect()
    for engine_ref, runner, thread in gone:
        thread.join(10)
        assert not thread.is_alive()
        assert engine_ref() is None
        assert runner() is None


def test_a_thread_that_cannot_start_leaves_no_model_behind(monkeypatch):
    runners = []
    start = threading.Thread.start

    def cannot(thread):
        if thread.name == "llada-rt":
            raise RuntimeError("can't start new thread")
        start(thread)

    close = Runner.close
    monkeypatch.setattr(Runner, "close", lambda runner: (runners.append(runner), close(runner))[1])
    monkeypatch.setattr(threading.Thread, "start", cannot)
    with pytest.raises(DeviceError, match="cannot be started"):
        AsyncEngine(CHECKPOINT, **OPTIONS)
    assert len(runners) == 1
