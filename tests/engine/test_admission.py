"""What is admitted, what waits, what is refused: K/V memory, the queue, faults, and a loop that does not come back."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from llada_rt import (
    AsyncEngine,
    ConfigError,
    Engine,
    EngineClosedError,
    EngineStuckError,
    InvalidRequestError,
    OutOfMemoryError,
    QueueFullError,
    RequestTooLargeError,
    SamplingParams,
)
from llada_rt.runtime.memory import machine_bytes
from tests.data.make_goldens import CHECKPOINT
from tests.engine.conftest import check_idle, held

PARAMS = SamplingParams(gen_length=16, block_length=4, preset="quality")
SMALL = {"compute_type": "float32", "threads": 1, "max_num_batched_tokens": 256}


def tokens(outputs):
    return [output.outputs[0].token_ids for output in outputs]


@pytest.fixture(scope="module")
def needs():
    """Bytes: (all but K/V, one slot of up to 64 positions)."""
    with Engine(CHECKPOINT, **SMALL) as engine:
        memory = engine._runner.memory
        return memory.weight_bytes + memory.workspace_bytes, engine._runner.slot_bytes(64)


def test_memory_decides_how_many_run(needs, engine: Engine):
    fixed, slot = needs
    prompts = [[n, n + 1] for n in range(9)]
    expected = tokens(engine.generate(prompts, PARAMS))
    for number in (1, 2, 5):
        with Engine(CHECKPOINT, **SMALL, memory_limit=fixed + number * slot) as small:
            assert small.stats().kv_bytes == number * slot
            most = []
            denoise = small._runner.denoise
            small._runner.denoise = lambda plan, d=denoise, m=most, s=small: (m.append(s.stats()), d(plan))[1]
            assert tokens(small.generate(prompts, PARAMS)) == expected
            assert max(stats.num_running for stats in most) == number
            assert max(stats.kv_used_bytes for stats in most) == number * slot
            assert small.score([1], [2, 3], mc_num=9) == engine.score([1], [2, 3], mc_num=9)
            small.forward([1, 2, 3])
            check_idle(small)


def test_what_can_never_fit_is_refused_with_the_numbers(needs):
    fixed, slot = needs
    with Engine(CHECKPOINT, **SMALL, memory_limit=fixed + slot) as small:
        for call in (
            lambda: small.generate([[1] * 60], PARAMS),
            lambda: small.generate([[1]], PARAMS.replace(cfg_scale=1.0)),
            lambda: small.stream([1] * 60, PARAMS),
            lambda: small.score([1] * 60, [2] * 5),
            lambda: small.score([1], [2], cfg_scale=0.5),
        ):
            with pytest.raises(RequestTooLargeError, match=f"needs {2 * slot} bytes .* {slot} are all"):
                call()
        with pytest.raises(RequestTooLargeError, match=r"^prompts\[1\]: "):
            small.generate([[1], [1] * 60], PARAMS)
        with pytest.raises(OutOfMemoryError):
            small.forward([1] * 100)
        assert small.generate([[1] * 48], PARAMS)
    with pytest.raises(ConfigError, match=f"at least {fixed + slot} bytes .* got {fixed}"):
        Engine(CHECKPOINT, **SMALL, memory_limit=fixed)


def test_by_default_the_machine_is_the_limit():
    with Engine(CHECKPOINT, **SMALL) as engine:
        memory = engine.info()["memory"]
        assert memory["limit_bytes"] <= machine_bytes()
        # Every seat can have the longest canvas, guided.
        assert memory["kv_bytes"] >= 2 * 8 * engine._runner.slot_bytes(engine.max_length)


def test_forward_waits_for_memory(needs):
    fixed, slot = needs
    with Engine(CHECKPOINT, **SMALL, memory_limit=fixed + 2 * slot) as small:
        expected = small.forward([1] * 100)
        stream = small.stream([1], PARAMS)
        next(stream)
        assert (small.forward([1] * 100) == expected).all()  # by letting the stream finish
        assert list(stream)[-1].finished


def test_the_queue_is_bounded(engine: Engine):
    with Engine(CHECKPOINT, **SMALL, max_num_seqs=1, max_num_queued_reqs=2) as small:
        streams = [small.stream([n], PARAMS, request_id=str(n)) for n in range(5)]
        with held(small) as go_on:
            go_on()
            next(streams[0])
            readers = [threading.Thread(target=list, args=(stream,)) for stream in streams[1:3]]
            for reader in readers:
                reader.start()
            while small.num_waiting < 2:
                time.sleep(0.001)
            with pytest.raises(QueueFullError, match="2 requests wait, and 2 may"):
                next(streams[3])
            with pytest.raises(QueueFullError):
                small.generate([[1]], PARAMS)
            with pytest.raises(QueueFullError):
                small.score([1], [2])
            with pytest.raises(QueueFullError):
                small.stream([9], PARAMS)
            with pytest.raises(RequestTooLargeError, match="3 samples are more than the 2"):
                small.generate([[1]], PARAMS.replace(n=3))
            for name in "012":
                assert small.abort(name)
        for reader in readers:
            reader.join()
        check_idle(small)
        prompts = [[n] for n in range(20)]  # a call with many prompts queues them as there is room
        assert tokens(small.generate(prompts, PARAMS)) == tokens(engine.generate(prompts, PARAMS))


def test_names_that_callers_choose_never_meet_those_that_they_do_not(engine: Engine):
    first = engine.generate([1], PARAMS)[0].request_id
    for taken in (first, "unnamed:7"):
        for call in (
            lambda name: engine.generate([[1]], PARAMS, request_ids=[name]),
            lambda name: engine.stream([1], PARAMS, request_id=name),
            lambda name: engine.score([1], [2], request_id=name),
        ):
            with pytest.raises(InvalidRequestError, match="the engine's own"):
                call(taken)
    named = [
        engine.stream([1], PARAMS, request_id=f"{begin}{n}") for n in range(20) for begin in ("request-", "", "a:")
    ]
    firsts = [next(stream) for stream in named]
    assert len({event.request_id for event in firsts}) == 60
    for _ in range(30):
        assert engine.generate([[1], [2]], PARAMS)
    for stream in named:
        stream.close()


@pytest.mark.parametrize("kind", [Engine, AsyncEngine])
def test_a_deadline_holds_for_those_that_wait_for_a_place(kind):
    """The last of many prompts in one call are not even queued when their time is over, whoever else is served."""
    engine = kind(CHECKPOINT, **SMALL, max_num_seqs=1, max_num_queued_reqs=2)
    runner = (engine if kind is Engine else engine.engine)._runner
    denoise = runner.denoise
    runner.denoise = lambda plan: (time.sleep(0.1), denoise(plan))[1]
    prompts, params = [[n] for n in range(60)], PARAMS.replace(timeout_s=0.3)
    company = PARAMS.replace(gen_length=100, block_length=1, eos_early_stop=False, stop_token_ids=[0])  # step by step
    steps = (engine if kind is Engine else engine.engine).generate
    other = threading.Thread(target=steps, args=([[1]], company), kwargs={"request_ids": ["company"]})
    other.start()
    while not engine.stats().num_running:
        time.sleep(0.001)
    began = time.monotonic()
    outputs = engine.generate(prompts, params) if kind is Engine else asyncio.run(engine.generate(prompts, params))
    assert time.monotonic() - began < 2
    assert [output.outputs[0].finish_reason for output in outputs[-50:]] == ["timeout"] * 50
    engine.abort("company")
    other.join()
    engine.close() if kind is Engine else asyncio.run(engine.close())


def test_a_large_call_leaves_room_for_others():
    with Engine(CHECKPOINT, **SMALL, max_num_seqs=2, max_num_queued_reqs=8) as small:
        waiting = []
        denoise = small._runner.denoise
        small._runner.denoise = lambda plan: (waiting.append(small.num_waiting), denoise(plan))[1]
        small.generate([[n] for n in range(40)], PARAMS)
        assert max(waiting) <= 4


def test_a_fault_in_the_plan_of_one_ends_that_one(engine: Engine):
    expected = tokens(engine.generate([[1], [2], [3]], PARAMS))

    class Broken:
        def select(self, canvas, steps_done):
            raise ValueError("planted")

    def read(number):
        try:
            return list(engine.stream([number], PARAMS))[-1].output.outputs[0].token_ids
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        with held(engine):
            answers = [pool.submit(read, number) for number in (1, 2, 3)]
            while len(jobs := list(engine._dispatcher._stepper.jobs.values())) < 3:
                time.sleep(0.001)
            (victim,) = (job for job in jobs if job.request.prompt_token_ids == (2,))
            victim.sources[0].decoder = Broken()
        assert [answer.result(30) for answer in answers] == [expected[0], "planted", expected[2]]
    check_idle(engine)


def test_a_call_that_fails_for_one_ends_that_one(engine: Engine, monkeypatch):
    """Whichever request the loop cannot bear: the others are run without it, and get the same answers."""
    prompts = [[1], [2, 2], [3, 3, 3], [4]]
    expected = tokens(engine.generate(prompts, PARAMS))
    denoise = engine._runner.denoise

    def fail(plan):
        if any(len(row.first_query) and row.first_query[0].visible == 18 for row in plan.sequences):
            raise MemoryError("planted")
        return denoise(plan)

    monkeypatch.setattr(engine._runner, "denoise", fail)
    streams = [engine.stream(prompt, PARAMS) for prompt in prompts]
    for index, stream in enumerate(streams):
        if index == 1:
            with pytest.raises(MemoryError, match="planted"):
                list(stream)
        else:
            assert list(stream)[-1].output.outputs[0].token_ids == expected[index]
    with pytest.raises(MemoryError):
        engine.generate(prompts, PARAMS)
    check_idle(engine)


def test_a_stuck_forward_shows():
    engine = Engine(CHECKPOINT, **SMALL)
    denoise, release, begun = engine._runner.denoise, threading.Event(), threading.Event()

    def stuck(plan):
        begun.set()
        release.wait(60)
        return denoise(plan)

    engine._runner.denoise = stuck
    engine.check_health(stuck_after_s=0.05)
    thread = threading.Thread(target=engine.generate, args=([[1]], PARAMS))
    thread.start()
    begun.wait(10)
    time.sleep(0.1)
    began = time.monotonic()
    with pytest.raises(EngineStuckError, match=r"at most 0\.05 s"):
        engine.check_health(stuck_after_s=0.05)
    assert engine.stats().call_s > 0.05
    engine.check_health()
    assert time.monotonic() - began < 5  # nothing of this waits for the loop
    release.set()
    thread.join(30)
    engine.check_health(stuck_after_s=0.05)
    engine.close()
    with pytest.raises(EngineClosedError):
        engine.check_health()


def test_close_gives_the_memory_back():
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    options = SMALL | {"max_num_seqs": 64}
    Engine(CHECKPOINT, **options).close()
    before = resident()
    for _ in range(20):
        engine = Engine(CHECKPOINT, **options)
        next(engine.stream([1], PARAMS))
        engine.close()
    with Engine(CHECKPOINT, **options) as engine:
        one = engine._runner.memory.weight_bytes
    assert resident() - before < 5 * one + 2**24
