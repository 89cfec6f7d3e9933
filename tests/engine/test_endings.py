"""How a response may end: stops, limits, deadlines, aborts; and samples, log-probabilities, measures."""

import json
import threading
import time

import pytest

from llada_rt import Engine, InvalidRequestError, RequestCancelledError, SamplingParams, TokenizerError
from tests.data.make_goldens import IDS
from tests.engine.conftest import check_idle, held

PARAMS = SamplingParams(gen_length=24, preset="quality", block_length=6, eos_early_stop=False)


def plain(speaker, prompt, params=PARAMS):
    return speaker.generate(prompt, params)[0].outputs[0]


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("prompt", ["abc", "床前明月光", "zz", "q", "12"])
def test_a_stop_ends_text_and_work(speaker: Engine, prompt, include):
    full = plain(speaker, prompt)
    assert full.stop_reason is None
    for stop in {full.text[2:4], full.text[5], full.text[7:12], "no such text"} - {""}:
        params = PARAMS.replace(stop=[stop, "nor this"], include_stop_str_in_output=include)
        out = plain(speaker, prompt, params)
        at = full.text.find(stop)
        if at < 0:
            assert (out.text, out.stop_reason, out.diffusion) == (full.text, None, full.diffusion)
            continue
        assert out.text == full.text[: at + len(stop) * include]
        assert (out.finish_reason, out.stop_reason) == ("stop", stop)
        assert out.token_ids == full.token_ids[: len(out.token_ids)]
        assert speaker.tokenizer.decode(out.token_ids) == out.text
        assert out.diffusion.nfe <= full.diffusion.nfe
        if at + len(stop) < len(full.text) // 2:
            assert out.diffusion.nfe < full.diffusion.nfe
        for mode in ("append", "denoise"):
            events = list(speaker.stream(prompt, params, mode=mode))
            assert "".join(event.text_delta for event in events) == out.text
            assert events[-1].output.outputs[0].diffusion == out.diffusion


def test_nothing_is_computed_after_a_stop(speaker: Engine):
    """The stop is in the committed text, so the request ends in the very step that wrote it."""
    params = PARAMS.replace(stop=[plain(speaker, "abc").text[4]])
    *_, last = speaker.stream("abc", params)
    prefix = last.canvas[3:]
    written = prefix[: prefix.index(IDS.mask)] if IDS.mask in prefix else prefix
    position = 3 + [speaker.tokenizer.decode([token]) for token in written].index(params.stop[0])
    steps = {p: event.step for event in speaker.stream("abc", params) for p, _, _ in event.committed}
    assert last.step == max(steps[p] for p in range(3, position + 1))


def test_stop_token_ids(engine: Engine):
    full = plain(engine, [3, 4]).token_ids
    stop = full[5]
    at = full.index(stop)
    for include in (False, True):
        params = PARAMS.replace(stop_token_ids=[stop, 2], include_stop_str_in_output=include)
        out = plain(engine, [3, 4], params)
        assert out.token_ids == full[: at + include]
        assert (out.finish_reason, out.stop_reason) == ("stop", stop)
        reference = SamplingParams(gen_length=24, block_length=6, stop_token_ids=[stop])
        assert stop not in plain(engine, [3, 4], reference).token_ids


def test_a_stop_in_the_prompt_is_no_stop(speaker: Engine):
    prompt = "abc, no such text"
    assert "no such text" not in plain(speaker, prompt).text
    assert plain(speaker, prompt, PARAMS.replace(stop=["no such text"])).text == plain(speaker, prompt).text


@pytest.mark.parametrize("most", [1, 2, 5, 23, 24, 100])
def test_max_nfe(engine: Engine, most):
    full = plain(engine, [3, 4])
    out = plain(engine, [3, 4], PARAMS.replace(max_nfe=most))
    assert out.diffusion.nfe == min(most, full.diffusion.nfe)
    assert out.token_ids == full.token_ids[: len(out.token_ids)]
    assert out.finish_reason == ("max_nfe" if most < full.diffusion.nfe else full.finish_reason)
    filled = engine.infill([[1], 5, [2], 5], SamplingParams(max_nfe=most)).outputs[0]
    assert filled.diffusion.nfe == min(most, 10)
    assert IDS.mask not in filled.token_ids


def test_a_deadline_gives_what_there_is(speaker: Engine, monkeypatch):
    denoise = speaker._runner.denoise

    def slow(plan):
        time.sleep(0.03)
        return denoise(plan)

    full = plain(speaker, "abc", PARAMS)
    monkeypatch.setattr(speaker._runner, "denoise", slow)
    (output,) = speaker.generate("abc", PARAMS.replace(timeout_s=0.1, stop=["no such text"]))
    out = output.outputs[0]
    assert out.finish_reason == "timeout"
    assert full.text.startswith(out.text)
    assert 0 < out.diffusion.nfe < full.diffusion.nfe
    assert output.metrics.total_s < 5
    (late,) = speaker.generate("abc", PARAMS.replace(timeout_s=1e-9))
    assert (late.outputs[0].finish_reason, late.outputs[0].token_ids, late.metrics.queue_s) == ("timeout", [], None)
    events = list(speaker.stream("abc", PARAMS.replace(timeout_s=0.1), mode="append"))
    assert events[-1].finished
    assert events[-1].output.outputs[0].finish_reason == "timeout"
    assert "".join(event.text_delta for event in events) == events[-1].output.text


def test_abort_from_another_thread(engine: Engine, monkeypatch):
    denoise = engine._runner.denoise
    begun = threading.Event()

    def slow(plan):
        begun.set()
        time.sleep(0.01)
        return denoise(plan)

    monkeypatch.setattr(engine._runner, "denoise", slow)
    results = []
    params = PARAMS.replace(gen_length=100, block_length=1)
    thread = threading.Thread(
        target=lambda: results.extend(engine.generate([[1], [2]], params, request_ids=["a", "b"]))
    )
    thread.start()
    begun.wait(10)
    assert engine.abort("a")
    thread.join(60)
    assert results[0].outputs[0].finish_reason == "abort"
    assert results[0].outputs[0].diffusion.nfe < 100
    assert results[1].outputs[0].finish_reason in ("length", "stop")
    assert not engine.abort("a")
    assert not engine.abort("nobody")


def test_abort_of_a_stream_and_of_a_score(engine: Engine, monkeypatch):
    events = engine.stream([1], PARAMS, request_id="mine")
    with held(engine) as go_on:
        go_on()
        next(events)
        assert engine.abort("mine")
        go_on()
        *_, last = events
        assert engine.num_open_slots == 0
    assert (last.finished, last.committed) == (True, [])
    assert last.output.outputs[0].finish_reason == "abort"

    denoise = engine._runner.denoise
    monkeypatch.setattr(engine._runner, "denoise", lambda plan: (engine.abort("my score"), denoise(plan))[1])
    with pytest.raises(RequestCancelledError):
        engine.score([1], [2, 3], mc_num=400, request_id="my score")


def test_samples_have_seeds_of_their_own_and_can_be_had_alone(engine: Engine):
    params = PARAMS.replace(temperature=1.2, n=5, seed=2**64 - 3)
    (output,) = engine.generate([[3, 4]], params)
    assert [completion.index for completion in output.outputs] == list(range(5))
    assert [completion.seed for completion in output.outputs] == [params.seed_of(i) for i in range(5)]
    assert output.outputs[0].seed == params.seed
    assert len({tuple(completion.token_ids) for completion in output.outputs}) == 5
    for completion in output.outputs:
        alone = plain(engine, [3, 4], params.replace(n=1, seed=completion.seed))
        assert alone.token_ids == completion.token_ids
    (drawn,) = engine.generate([[3, 4]], params.replace(seed=None))
    assert engine.generate([[3, 4]], drawn.params)[0].outputs == drawn.outputs


@pytest.mark.parametrize("mode", ["append", "denoise"])
def test_samples_can_be_streamed(speaker: Engine, mode):
    params = PARAMS.replace(temperature=1.2, n=3, seed=5)
    (expected,) = speaker.generate("abc", params)
    events = list(speaker.stream("abc", params, mode=mode))
    assert [event.finished for event in events].count(True) == 3
    assert [event.output is not None for event in events] == [False] * (len(events) - 1) + [True]
    for completion in expected.outputs:
        told = "".join(event.text_delta for event in events if event.index == completion.index)
        assert told == completion.text
    assert events[-1].output.outputs == expected.outputs


def test_log_probabilities_are_those_of_the_step(engine: Engine):
    """With one position left to fill, it is the log-softmax of a forward over the canvas."""
    import numpy as np

    for options in ({}, {"temperature": 1.0, "seed": 4}, {"remasking": "random", "seed": 4}, {"remasking": "margin"}):
        params = SamplingParams(gen_length=1, logprobs=0, return_tokens=True, **options)
        (output,) = engine.generate([[5, 6, 7]], params)
        completion = output.outputs[0]
        logits = engine.forward([5, 6, 7, IDS.mask])[3].astype(np.float64)
        expected = logits[completion.token_ids[0]] - np.logaddexp.reduce(logits)
        assert completion.logprobs == pytest.approx([expected], abs=1e-4)
        assert completion.tokens[0].logprob == completion.logprobs[0]
    low = engine.generate([[5, 6, 7]], SamplingParams(gen_length=16, block_length=4, logprobs=0, return_tokens=True))
    tokens = low[0].outputs[0].tokens
    assert [np.exp(token.logprob) for token in tokens] == pytest.approx([token.confidence for token in tokens])
    assert plain(engine, [5, 6, 7]).logprobs is None


def test_a_presets_expansion_is_in_the_output_and_explicit_fields_win(engine: Engine):
    (output,) = engine.generate([[1, 2]], SamplingParams(preset="fast", gen_length=8, cache="none"))
    assert (
        output.to_dict()["params"] | {"preset": "fast", "threshold": 0.9, "cache": "none", "block_length": 8}
        == (output.to_dict()["params"])
    )
    (quality,) = engine.generate([[1, 2]], SamplingParams(preset="quality", gen_length=8, threshold=0.5, steps=4))
    assert (quality.params.threshold, quality.params.steps, quality.params.eos_early_stop) == (0.5, 4, True)


def test_measures_of_a_request(speaker: Engine):
    (output,) = speaker.generate("abc", PARAMS.replace(n=2))
    metrics = output.metrics
    assert 0 <= metrics.queue_s <= metrics.first_text_s <= metrics.total_s
    assert json.loads(json.dumps(output.to_dict()))["metrics"]["total_s"] == metrics.total_s


def test_engine_stats_count(engine: Engine):
    before = engine.stats()
    engine.generate([[1], [2, 3]], PARAMS.replace(stop_token_ids=[]))
    engine.generate([[1]], PARAMS.replace(max_nfe=1))
    engine.score([1], [2, 3], mc_num=3)
    with held(engine) as go_on:
        go_on()
        next(stream := engine.stream([1], PARAMS))
        during = engine.stats()
        assert (during.num_running, during.num_waiting) == (1, 0)
        assert during.kv_used_bytes == engine._runner.slot_bytes(25)
        stream.close()
    check_idle(engine)
    after = engine.stats()
    assert after.num_finished.get("score", 0) == before.num_finished.get("score", 0) + 1
    assert after.num_finished["max_nfe"] == before.num_finished.get("max_nfe", 0) + 1
    assert after.num_dropped == before.num_dropped + 1
    assert after.num_committed > before.num_committed
    assert after.num_forwards > before.num_forwards
    assert (after.num_running, after.num_waiting, after.kv_used_bytes, after.call_s) == (0, 0, 0, None)
    assert after.busy_s > before.busy_s


BAD = [
    ({"stop": ["x"]}, [1], TokenizerError, "stop"),
    ({"stop_token_ids": [160]}, [1], InvalidRequestError, "0 to 159"),
    ({"stop_token_ids": [IDS.mask]}, [1], InvalidRequestError, "mask"),
    ({"stop_token_ids": [3]}, {"segments": [2]}, InvalidRequestError, "infill"),
]


@pytest.mark.parametrize(("options", "prompt", "kind", "words"), BAD, ids=str)
def test_stops_that_make_no_sense(engine: Engine, options, prompt, kind, words):
    with pytest.raises(kind, match=words):
        engine.generate(prompt, SamplingParams(gen_length=8, **options))


@pytest.mark.parametrize("name", ["", 3, "x" * 257, b"a"])
def test_bad_request_ids(engine: Engine, name):
    with pytest.raises(InvalidRequestError, match="request_id"):
        engine.generate([[1]], PARAMS, request_ids=[name])


def test_request_ids_are_one_for_each_and_not_in_use(engine: Engine):
    for names in (["a"], ["a", "a"], ["a", "b", "c"]):
        with pytest.raises(InvalidRequestError, match="request_ids: expected 2"):
            engine.generate([[1], [2]], PARAMS, request_ids=names)
    with held(engine) as go_on:
        go_on()
        next(stream := engine.stream([1], PARAMS, request_id="a"))
        with pytest.raises(InvalidRequestError, match="in use"):
            engine.generate([[1]], PARAMS, request_ids=["a"])
        stream.close()
    with pytest.raises(InvalidRequestError, match="append or denoise"):
        engine.stream([1], PARAMS, mode="tokens")


@pytest.mark.parametrize("preset", ["reference", "quality"])
def test_a_stop_that_names_a_control_token(speaker: Engine, preset):
    """The text never shows it; all tokens but the last are given, so that it is known where it stands."""
    begin = speaker.tokenizer.token_id("<|startoftext|>")
    ids = [*speaker.tokenizer.encode("ab"), begin, *speaker.tokenizer.encode("cd")]
    prompt = {"prompt": "x", "pinned": dict(enumerate(ids))}
    params = SamplingParams(gen_length=6, preset=preset)
    for stop, text in (("<|startoftext|>", "ab"), ("b<|startoftext|>c", "a"), ("<|startoftext|>cd", "ab")):
        out = speaker.generate(prompt, params.replace(stop=["never", stop]))[0].outputs[0]
        assert (out.text, out.finish_reason, out.stop_reason) == (text, "stop", stop)
        assert out.token_ids == ids[: len(text)]
        events = list(speaker.stream(prompt, params.replace(stop=["never", stop]), mode="append"))
        assert "".join(event.text_delta for event in events) == text
    kept = speaker.generate(prompt, params.replace(stop=["<|startoftext|>"], include_stop_str_in_output=True))[
        0
    ].outputs[0]
    assert (kept.text, kept.token_ids) == ("ab", ids[:3])
