"""Signals: an interrupt at any line of a caller does no damage; a handler may call the engine that it interrupts."""

import contextlib
import gc
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import llada_rt
from llada_rt import Engine, EngineClosedError, EngineStuckError, SamplingParams
from tests.data.make_goldens import CHECKPOINT, IDS
from tests.engine.conftest import check_idle, held

PARAMS = SamplingParams(gen_length=8, block_length=4, preset="quality", seed=1)
PACKAGE = Path(llada_rt.__file__).parent
_RUNTIME = ("dispatcher", "letters", "intake", "stepper", "jobs", "generate_job", "score_job")
ROOMS = {str(PACKAGE / name) for name in ("engine.py", *(f"runtime/{each}.py" for each in _RUNTIME))}


def whole_stream(engine: Engine) -> None:
    for _ in engine.stream([1, 2], PARAMS):
        pass


def part_of_a_stream(engine: Engine) -> None:
    stream = engine.stream([1, 2], PARAMS, mode="append")
    next(stream)
    stream.close()


def abort(engine: Engine) -> None:
    stream = engine.stream([1, 2], PARAMS, request_id="it")
    next(stream)
    engine.abort("it")
    list(stream)


def refuse(engine: Engine) -> None:
    with contextlib.suppress(ValueError):
        engine.generate([[1], [1]], PARAMS, request_ids=["a", "a"])


CALLS: dict[str, Callable[[Engine], object]] = {
    "generate": lambda engine: engine.generate([[1], [2, 3]], PARAMS),
    "samples": lambda engine: engine.generate([[1]], PARAMS.replace(n=2, temperature=1.0, cfg_scale=0.5)),
    "more than may wait": lambda engine: engine.generate([[n] for n in range(9)], PARAMS),
    "stream": whole_stream,
    "closed stream": part_of_a_stream,
    "aborted stream": abort,
    "infill": lambda engine: engine.infill([[1], 2, [3]], PARAMS),
    "score": lambda engine: engine.score([1], [2, 3], mc_num=3),
    "forward": lambda engine: engine.forward([1, 2]),
    "refused": refuse,
}


@pytest.fixture
def small():
    options = {"compute_type": "float32", "threads": 1, "max_num_seqs": 2, "max_num_queued_reqs": 6}
    with Engine(CHECKPOINT, eot_token_id=IDS.eot, **options) as engine:
        yield engine


def interrupted_at(line: int, call: Callable[[], object]) -> bool:
    """Run the call, and raise KeyboardInterrupt before the line-th line of ours. False: it has fewer lines."""
    left = line

    def trace(frame, event, argument):
        nonlocal left
        if frame.f_code.co_filename not in ROOMS:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return left <= 0  # somebody below has swallowed it


@pytest.mark.parametrize("name", CALLS)
def test_an_interrupt_at_any_line_does_no_damage(small: Engine, name):
    expected = small.generate([[5]], PARAMS)[0].outputs[0].token_ids
    line = 1
    while interrupted_at(line, lambda: CALLS[name](small)):
        check_idle(small)
        line += 1
    assert line > 10
    check_idle(small)
    assert small.generate([[5]], PARAMS)[0].outputs[0].token_ids == expected


class Alarm(Exception):
    pass


def interrupt_calls(engine: Engine, count: int, kind: type[BaseException]) -> None:
    """Calls with a signal at a random moment of each, until so many have been met by it."""
    generator, number, hits = random.Random(count), 0, 0
    names = list(CALLS)

    def ring(*_):
        raise kind

    before = signal.signal(signal.SIGALRM, ring)
    try:
        while hits < count:
            name = names[number % len(names)]
            number += 1
            try:
                signal.setitimer(signal.ITIMER_REAL, generator.uniform(0.00001, 0.004))
                CALLS[name](engine)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except kind:
                hits += 1
            if number % 50 == 0:
                check_idle(engine)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a signal may meet a finalizer
@pytest.mark.parametrize("kind", [KeyboardInterrupt, Alarm])
@pytest.mark.parametrize("count", [300, pytest.param(5_000, marks=pytest.mark.slow)])
def test_signals_at_random_moments_do_no_damage(small: Engine, count, kind):
    expected = small.generate([[5]], PARAMS)[0].outputs[0].token_ids
    interrupt_calls(small, count, kind)
    check_idle(small)
    small.check_health()
    assert small.generate([[5]], PARAMS)[0].outputs[0].token_ids == expected


@contextlib.contextmanager
def on_signal(act: Callable[[], object]):
    """A handler of SIGUSR1 that acts, and what came of each time."""
    results: list[object] = []

    def handler(*_):
        try:
            results.append(act())
        except Exception as error:
            results.append(error)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield results
    finally:
        signal.signal(signal.SIGUSR1, before)


def in_a_step(engine: Engine, call: Callable[[], object]) -> object:
    """The call, with SIGUSR1 while its step is under way."""
    with held(engine) as go_on:

        def signal_then_go_on():
            while not engine.num_running:
                time.sleep(0.001)
            time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.05)  # the handler is at it
            for _ in range(1000):
                go_on()

        thread = threading.Thread(target=signal_then_go_on)
        thread.start()
        try:
            return call()
        finally:
            thread.join()


@pytest.mark.parametrize("name", [name for name in CALLS if name != "refused"])
def test_a_handler_may_call_the_engine_that_it_interrupts(small: Engine, name):
    expected = small.generate([[1], [2, 3]], PARAMS)
    with on_signal(lambda: CALLS[name](small)) as results:
        outputs = in_a_step(small, lambda: small.generate([[1], [2, 3]], PARAMS))
    assert [output.outputs for output in outputs] == [output.outputs for output in expected]
    assert len(results) == 1
    assert not isinstance(results[0], Exception), results
    check_idle(small)


def test_a_handler_may_abort_and_close(small: Engine):
    with on_signal(lambda: small.abort("it")) as results:
        (output,) = in_a_step(small, lambda: small.generate([[1]], PARAMS, request_ids=["it"]))
    assert results == [True]
    assert output.outputs[0].finish_reason == "abort"
    with on_signal(small.close) as results, pytest.raises(EngineClosedError):
        in_a_step(small, lambda: small.generate([[1]], PARAMS))
    assert results == [None]


def test_a_call_from_the_thread_that_steps_is_refused(small: Engine):
    """As a finalizer's would be that the garbage collector runs there."""
    seen = []
    denoise = small._runner.denoise

    def meddle(plan):
        for name, call in CALLS.items():
            if name != "refused":
                with pytest.raises(EngineStuckError, match="wait for itself"):
                    call(small)
                seen.append(name)
        return denoise(plan)

    small._runner.denoise = meddle
    assert small.generate([[1]], PARAMS)
    small._runner.denoise = denoise
    assert len(seen) >= len(CALLS) - 1
    check_idle(small)

    def close(plan):
        small.close()
        return denoise(plan)

    small._runner.denoise = close
    with pytest.raises(EngineClosedError):
        small.generate([[1]], PARAMS)
    small._dispatcher.thread.join(10)
    assert not small._dispatcher.thread.is_alive()


def test_a_request_ends_with_the_frame_that_wanted_it(small: Engine, monkeypatch):
    """Even if nothing tells the engine so: what was interrupted on its way out."""
    monkeypatch.setattr(small._dispatcher, "drop", lambda job: None)
    with held(small) as go_on:
        go_on()
        stream = small.stream([1], PARAMS)
        next(stream)
        stream.close()
        go_on()
        del stream
        gc.collect()
        check_idle(small)
    assert small.generate([[1]], PARAMS)


def test_a_handler_may_call_while_somebody_logs(small: Engine):
    """The thread that steps waits for no lock of logging, which the interrupted caller may have."""
    logger, seen = logging.getLogger("llada_rt"), []

    class Slow(logging.Handler):
        def emit(self, record):
            seen.append(record.getMessage())
            if len(seen) == 1:
                signal.setitimer(signal.ITIMER_REAL, 0.001)
                time.sleep(0.05)  # the lock of this handler is held

    before = signal.signal(signal.SIGALRM, lambda *_: small.generate([[1]], PARAMS))
    handler = Slow()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        assert small.generate([[1], [2]], PARAMS)
    finally:
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)
        signal.signal(signal.SIGALRM, before)
    assert sum("has finished" in line for line in seen) == 3
    check_idle(small)
