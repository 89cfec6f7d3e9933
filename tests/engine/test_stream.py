"""stream: joined it is generate, closing it cancels, and others go on beside it."""

import gc
import time

import pytest

from llada_rt import Engine, InternalError, SamplingParams
from tests.data.make_goldens import IDS
from tests.engine.conftest import check_idle, held

VARIETY = [
    SamplingParams(gen_length=16, block_length=8, steps=8),
    SamplingParams(gen_length=24, preset="fast", block_length=8),
    SamplingParams(gen_length=20, preset="quality", block_length=4, temperature=1.0, seed=4),
    SamplingParams(gen_length=12, cfg_scale=1.0, remasking="margin"),
    SamplingParams(gen_length=16, block_length=8, preset="balanced"),
    SamplingParams(gen_length=24, block_length=12, cache="dual_compact"),
    SamplingParams(gen_length=24, block_length=12, cache="dual_compact", threshold=0.3, cfg_scale=0.5),
    SamplingParams(gen_length=60, block_length=10, cache="vicinity", steps=30),
    SamplingParams(gen_length=55, block_length=11, cache="interval", cfg_scale=0.5),
]


@pytest.mark.parametrize("params", VARIETY, ids=range(len(VARIETY)))
@pytest.mark.parametrize("prompt", ["abc", "床前明月光", "z" * 40])
def test_joined_it_is_generate(speaker: Engine, prompt, params):
    (expected,) = speaker.generate(prompt, params)
    events = list(speaker.stream(prompt, params))
    completion = events[-1].output.outputs[0]
    assert completion.token_ids == expected.outputs[0].token_ids
    assert "".join(event.text_delta for event in events) == expected.text == events[-1].text
    assert [event.step for event in events] == list(range(completion.diffusion.nfe))
    assert [event.finished for event in events] == [False] * (len(events) - 1) + [True]
    assert all(event.output is None for event in events[:-1])
    assert completion.diffusion == expected.outputs[0].diffusion


def test_events_tell_the_canvas(speaker: Engine):
    params = SamplingParams(gen_length=16, block_length=4, preset="quality", eos_early_stop=False)
    canvas = None
    text = ""
    for event in speaker.stream("abc", params):
        assert event.prompt_length == 3
        assert event.nfe == event.step + 1
        if canvas is None:
            canvas = [*speaker.tokenizer.encode("abc"), *[IDS.mask] * 16]
        for position, token, confidence in event.committed:
            assert canvas[position] == IDS.mask
            assert (position - 3) // 4 == event.block
            assert 0 < confidence <= 1
            canvas[position] = token
        assert event.canvas == canvas
        text += event.text_delta
        assert text == event.text
    assert IDS.mask not in canvas


def test_closing_cancels(engine: Engine):
    events = engine.stream([1, 2], SamplingParams(gen_length=32, cfg_scale=1.0))
    time.sleep(0.01)
    assert engine.num_open_slots == 0  # nothing runs before the first event is asked for
    with held(engine) as go_on:
        go_on()
        next(events)
        assert engine.num_open_slots == 2
        events.close()
    check_idle(engine)
    assert list(events) == []


def test_an_abandoned_stream_is_cancelled(engine: Engine):
    def start():
        events = engine.stream([1, 2], SamplingParams(gen_length=32))
        go_on()
        next(events)
        assert engine.num_open_slots == 1

    dropped = engine.stats().num_dropped
    with held(engine) as go_on:
        start()
        gc.collect()
        go_on()
        check_idle(engine)
    assert engine.stats().num_dropped == dropped + 1
    never_started = engine.stream([1, 2], SamplingParams(gen_length=32))
    del never_started
    check_idle(engine)


def test_leaving_the_loop_cancels(engine: Engine):
    for _ in engine.stream([1, 2], SamplingParams(gen_length=32)):
        break
    gc.collect()
    check_idle(engine)


def test_streams_side_by_side_and_a_generate_among_them(engine: Engine):
    params = SamplingParams(gen_length=16, block_length=8)
    prompts = [[1], [2, 3], [4, 5, 6]]
    expected = [output.outputs[0].token_ids for output in engine.generate(prompts, params)]
    streams = [engine.stream(prompt, params) for prompt in prompts]
    last = [None] * 3
    for turn in range(16):
        for index, stream in enumerate(streams):
            last[index] = next(stream)
        if turn == 5:
            assert engine.generate(prompts, params)[1].outputs[0].token_ids == expected[1]
    assert [event.output.outputs[0].token_ids for event in last] == expected
    assert all(list(stream) == [] for stream in streams)


def test_a_stream_that_is_not_read_does_not_hold_others_up(engine: Engine):
    params = SamplingParams(gen_length=16)
    events = engine.stream([1], params)
    next(events)
    engine.generate([[2]], params)
    assert len(list(events)) == 15


def test_an_infill_can_be_streamed(speaker: Engine):
    request = {"segments": ["床前", 3, "光"]}
    params = SamplingParams(gen_length=8)
    expected = speaker.infill(request["segments"], params)
    events = list(speaker.stream(request, params))
    assert events[-1].output.text == expected.text == "".join(event.text_delta for event in events)
    assert events[0].prompt_length == 0
    assert len(events) == 3


def test_a_fault_in_the_loop_ends_the_stream_with_it(engine: Engine, monkeypatch):
    events = engine.stream([1], SamplingParams(gen_length=16))
    calls, denoise = iter(range(1)), engine._runner.denoise

    def fail_at_the_second(plan):
        if next(calls, None) is None:
            raise InternalError("planted")
        return denoise(plan)

    with monkeypatch.context() as patch:
        patch.setattr(engine._runner, "denoise", fail_at_the_second)
        next(events)
        with pytest.raises(InternalError, match="planted"):
            next(events)
    check_idle(engine)
    assert list(events) == []


def test_an_event_is_plain_json(speaker: Engine):
    import json

    for event in speaker.stream("abc", SamplingParams(gen_length=4)):
        value = json.loads(json.dumps(event.to_dict()))
    assert value["finished"]
    assert value["output"]["outputs"][0]["text"] == value["text"]
