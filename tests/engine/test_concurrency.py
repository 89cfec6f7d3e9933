"""Many threads on one engine, and faults in the middle: every call ends with its answer or a typed error."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from llada_rt import Engine, EngineClosedError, InternalError, OutOfMemoryError, SamplingParams
from tests.data.make_goldens import CHECKPOINT, IDS
from tests.engine.conftest import check_idle

PARAMS = [
    SamplingParams(gen_length=16, block_length=8, steps=8),
    SamplingParams(gen_length=24, preset="fast", block_length=8, seed=1),
    SamplingParams(gen_length=12, temperature=0.9, seed=2, cfg_scale=0.5),
]


def tokens(outputs):
    return [output.outputs[0].token_ids for output in outputs]


def test_threads_share_the_engine(engine: Engine):
    calls = [([[n], [n, n + 1, n + 2]], PARAMS[n % 3]) for n in range(24)]
    expected = [tokens(engine.generate(*call)) for call in calls]

    def work(index):
        if index % 4 == 0:
            events = [list(engine.stream(prompt, calls[index][1])) for prompt in calls[index][0]]
            return tokens([stream[-1].output for stream in events])
        if index % 4 == 1:
            engine.forward([1, 2, 3])
            engine.score([1], [2, 3], mc_num=4)
        return tokens(engine.generate(*calls[index]))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(24))) == expected


def test_requests_of_several_threads_run_together(engine: Engine):
    seen = []
    denoise = engine._runner.denoise
    barrier = threading.Barrier(3)

    def watched(plan):
        seen.append(len(plan.sequences))
        time.sleep(0.002)
        return denoise(plan)

    def work(n):
        barrier.wait()
        engine.generate([[n]], SamplingParams(gen_length=64, block_length=2))

    engine._runner.denoise = watched
    try:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(work, range(3)))
    finally:
        del engine._runner.denoise
    assert max(seen) == 3


def test_a_fault_ends_the_requests_it_hit_and_no_others(engine: Engine, monkeypatch):
    expected = tokens(engine.generate([[1], [2]], PARAMS[0]))
    for error in (InternalError("planted"), RuntimeError("planted"), MemoryError("planted")):
        with monkeypatch.context() as patch:

            def fail(plan, error=error):
                raise error

            patch.setattr(engine._runner, "denoise", fail)
            with pytest.raises(type(error), match="planted"):
                engine.generate([[1], [2]], PARAMS[0])
            check_idle(engine)
        assert tokens(engine.generate([[1], [2]], PARAMS[0])) == expected


def test_a_tokenizer_that_fails_ends_its_request_only(speaker: Engine, monkeypatch):
    params = SamplingParams(gen_length=12, preset="quality")
    expected = speaker.generate("b", params)[0].text
    for after in range(100):
        left = iter(range(after))

        def fail(ids, left=left, **options):
            if next(left, None) is None:
                raise RuntimeError("planted")
            return ""

        with monkeypatch.context() as patch:
            patch.setattr(speaker.tokenizer, "decode", fail)
            try:
                list(speaker.stream("a", params))
            except RuntimeError as fault:
                error = fault
            else:
                break
        assert str(error) == "planted"
        check_idle(speaker)
        assert speaker._dispatcher._stepper.jobs == {}
        assert speaker.generate("b", params)[0].text == expected
    assert after > 2


def test_without_memory_for_all_the_rest_waits(engine: Engine, monkeypatch):
    requests = [[n] for n in range(6)]
    expected = tokens(engine.generate(requests, PARAMS[0]))
    open_slots = engine._runner.open

    def scarce(*args, **kwargs):
        if engine.num_open_slots >= 2:
            raise OutOfMemoryError("no room")
        return open_slots(*args, **kwargs)

    monkeypatch.setattr(engine._runner, "open", scarce)
    assert tokens(engine.generate(requests, PARAMS[0])) == expected


def test_without_memory_at_all_it_is_an_error(engine: Engine, monkeypatch):
    def none(*args, **kwargs):
        raise OutOfMemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(engine._runner, "open", none)
        with pytest.raises(OutOfMemoryError, match="no room"):
            engine.generate([[1], [2]], PARAMS[0])
    check_idle(engine)
    assert engine.generate([[1]], PARAMS[0])


def test_a_guide_slot_that_cannot_be_opened_gives_the_first_one_back(engine: Engine, monkeypatch):
    open_slot = engine._runner._runtime.open_slot

    class OneSlot:
        def __getattr__(self, name):
            return getattr(runtime, name)

        def open_slot(self, canvas, last_position):
            if runtime.num_open_slots:
                raise OutOfMemoryError("no room")
            return open_slot(canvas, last_position)

    runtime = engine._runner._runtime
    with monkeypatch.context() as patch:
        patch.setattr(engine._runner, "_runtime", OneSlot())
        with pytest.raises(OutOfMemoryError):
            engine.generate([[1]], SamplingParams(gen_length=8, cfg_scale=1.0))
        check_idle(engine)


def test_closing_ends_the_requests_of_other_threads():
    engine = Engine(CHECKPOINT, threads=1, eot_token_id=IDS.eot)
    started = threading.Event()
    denoise = engine._runner.denoise

    def slow(plan):
        started.set()
        time.sleep(0.01)
        return denoise(plan)

    engine._runner.denoise = slow
    errors = []

    def work():
        try:
            engine.generate([[1]] * 4, SamplingParams(gen_length=100, block_length=1))
        except EngineClosedError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.wait(10)
    engine.close()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert len(errors) == 3
