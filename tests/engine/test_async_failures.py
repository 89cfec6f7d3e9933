"""AsyncEngine where something fails: everybody hears of that, nothing is left behind."""

import asyncio
import gc
import threading
import weakref

import pytest

from llada_rt import (
    AsyncEngine,
    DeviceError,
    Engine,
    InternalError,
    TokenizerError,
)
from llada_rt.runtime.runner import Runner
from tests.data.make_goldens import CHECKPOINT
from tests.engine.test_async import LONG, OPTIONS, PARAMS, idle


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


@pytest.mark.parametrize("place", ["serve", "_read", "_run_errands"])
def test_when_the_thread_ends_so_do_its_requests_and_health_says_so(place, monkeypatch):
    async def main():
        async with AsyncEngine(CHECKPOINT, **OPTIONS) as service:
            dispatcher = service.engine._dispatcher
            thread, faults = dispatcher.thread, iter([SystemExit(), MemoryError("planted")])
            original = getattr(dispatcher, place)

            def end(*args):
                if fault := next(faults, None):
                    raise fault
                return original(*args)

            monkeypatch.setattr(dispatcher, place, end)

            async def read():
                return [event async for event in service.stream([1], LONG)]

            calls = [
                service.generate([[1], [2]], LONG),
                service.score([1], [2], mc_num=500),
                read(),
                service.forward([1]),
            ]
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
            for call in (lambda: service.engine.generate([1], PARAMS), lambda: service.engine.forward([1])):
                with pytest.raises(InternalError, match="has ended"):
                    call()

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


def test_dropped_without_close_it_is_freed(engine: Engine):
    gone = []
    for number in range(3):
        service = AsyncEngine(CHECKPOINT, **OPTIONS)
        if number:
            asyncio.run(service.generate([[1]], PARAMS))
        gone.append(
            (weakref.ref(service.engine), weakref.ref(service.engine._runner), service.engine._dispatcher.thread)
        )
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
