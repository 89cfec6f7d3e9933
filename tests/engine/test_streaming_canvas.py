"""suffix_window: the published rule, token by token; memory and time follow what is written, whatever the cap."""

import re

import numpy as np
import pytest

from llada_rt import Engine, InvalidRequestError, SamplingParams
from tests.data.make_goldens import CHECKPOINT, IDS
from tests.engine.conftest import check_idle
from tests.engine.models import write_folder
from tests.reference.denoise import Params
from tests.reference.streaming import StreamingModel, generate

PROMPT = [7, 99, 23, 41, 5]
BASE = SamplingParams(preset="quality", eos_early_stop=False, return_tokens=True)
CASES = [
    {"gen_length": 40, "block_length": 8, "window": 8},
    {"gen_length": 40, "block_length": 8, "window": 8, "cache": "dual"},
    {"gen_length": 40, "block_length": 8, "window": 4, "cache": "dual_compact"},
    {"gen_length": 44, "block_length": 8, "window": 16, "cache": "prefix", "steps": 22},
    {"gen_length": 90, "block_length": 16, "window": 20, "cache": "dual", "threshold": 0.02},
    {"gen_length": 70, "block_length": 16, "window": 1, "cache": "vicinity", "threshold": 0.05},
    {"gen_length": 40, "block_length": 8, "window": 8, "temperature": 0.8, "seed": 3, "cache": "dual"},
    {"gen_length": 40, "block_length": 8, "window": 8, "cfg_scale": 0.7, "cache": "dual"},
    {"gen_length": 33, "block_length": 8, "window": 24, "steps": 33},
    {"gen_length": 33, "block_length": 8, "window": 23, "steps": 33, "cache": "dual"},
    {"gen_length": 24, "block_length": 8, "window": 200, "cache": "dual"},
    {"gen_length": 50, "block_length": 8, "window": 8, "cache": "dual", "threshold": 0.1, "threshold_alpha": 0.9},
    {"gen_length": 50, "block_length": 8, "window": 8, "cache": "prefix", "entropy_bound": 9.0, "remasking": "entropy"},
]


def params_of(case: dict) -> SamplingParams:
    own = {name: value for name, value in case.items() if name != "window"}
    return BASE.replace(**own, suffix_window=case["window"])


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> Engine:
    """With a context that holds a long cap."""
    folder = write_folder(tmp_path_factory.mktemp("long"), config={"max_sequence_length": 4400})
    with Engine(folder, compute_type="float32", threads=1) as engine:
        yield engine


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tokens_are_the_references(engine: Engine, case):
    own = {name: value for name, value in case.items() if name != "window"}
    params = Params(**{"propose_mask": False, "steps": case["gen_length"], **own})
    run = generate(StreamingModel(CHECKPOINT), PROMPT, params, IDS, case["window"])
    completion = engine.generate(PROMPT, params_of(case))[0].outputs[0]
    tokens = sorted(completion.tokens, key=lambda token: token.position)
    assert [token.id for token in tokens] == run.canvas[len(PROMPT) :].tolist()
    steps = {commit.position: commit.step for commit in run.commits}
    assert {token.position: token.step for token in tokens} == steps
    assert completion.diffusion.nfe == run.num_forward


@pytest.mark.parametrize("cache", ["none", "dual", "interval"])
def test_a_window_over_the_whole_response_changes_nothing(engine: Engine, cache):
    params = BASE.replace(gen_length=40, block_length=8, cache=cache)
    whole = engine.generate(PROMPT, params)[0].outputs[0]
    assert engine.generate(PROMPT, params.replace(suffix_window=40))[0].outputs[0].tokens == whole.tokens


def test_neighbours_are_not_felt(engine: Engine):
    """Each request as if alone, with canvases that grow at different times and slots that are given back."""
    params = [params_of(case).replace(seed=index) for index, case in enumerate(CASES)]
    prompts = [PROMPT[: 1 + index % 5] for index in range(len(CASES))]
    together = engine.generate(prompts, params)
    for prompt, one, output in zip(prompts, params, together, strict=True):
        assert engine.generate(prompt, one)[0].outputs[0].tokens == output.outputs[0].tokens
    check_idle(engine)


def test_growing_waits_for_memory(tmp_path):
    """Two requests that fit while they are short, and not side by side when they are long: both are answered."""
    folder = write_folder(tmp_path / "model", config={"max_sequence_length": 1024})
    params = BASE.replace(gen_length=900, block_length=64, suffix_window=64, cache="dual", threshold=0.001)
    with Engine(folder, compute_type="float32", threads=1) as engine:
        expected = [engine.generate(prompt, params)[0].outputs[0].token_ids for prompt in ([1, 2], [3])]
        engine._runner._runtime.reserve_kv(engine._runner.slot_bytes(1024) + engine._runner.slot_bytes(256))
        outputs = engine.generate([[1, 2], [3]], params)
        assert [output.outputs[0].token_ids for output in outputs] == expected
        assert engine.stats().kv_used_bytes == 0
        check_idle(engine)


@pytest.mark.parametrize("n", [1, 2])
def test_a_canvas_that_outgrows_all_memory_ends_its_response(tmp_path, n):
    """Nothing of the text is lost, and the engine goes on."""
    folder = write_folder(tmp_path / "model", config={"max_sequence_length": 1024})
    params = BASE.replace(gen_length=900, block_length=64, suffix_window=64, cache="dual", threshold=0.001, n=n, seed=4)
    with Engine(folder, compute_type="float32", threads=1) as engine:
        whole = [each.token_ids for each in engine.generate([1, 2], params)[0].outputs]
        engine._runner._runtime.reserve_kv(engine._runner.slot_bytes(320))
        for index, completion in enumerate(engine.generate([1, 2], params)[0].outputs):
            assert completion.finish_reason == "length"
            assert 64 <= len(completion.token_ids) < 320
            assert completion.token_ids == whole[index][: len(completion.token_ids)]
        events = list(engine.stream([1, 2], params, mode="denoise"))
        assert events[-1].finished
        check_idle(engine)


def test_leaving_while_waiting_for_memory(tmp_path):
    """A request that has given its slots back ends as it is, and its neighbour is answered as if alone."""
    folder = write_folder(tmp_path / "model", config={"max_sequence_length": 1024})
    params = BASE.replace(gen_length=900, block_length=64, suffix_window=64, cache="dual", threshold=0.001)
    with Engine(folder, compute_type="float32", threads=1) as engine:
        alone = engine.generate([3], params)[0].outputs[0].token_ids
        stepper, scheduler, waits = engine._dispatcher._stepper, engine._dispatcher._stepper._scheduler, []
        wait_again = scheduler.wait_again

        def waited(member):
            wait_again(member)
            waits.append(member)
            if len(waits) == 1:
                stepper.end(stepper._job_of[member], "abort")

        scheduler.wait_again = waited
        engine._runner._runtime.reserve_kv(engine._runner.slot_bytes(1024) + engine._runner.slot_bytes(256))
        aborted, other = engine.generate([[1, 2], [3]], params)
        assert aborted.outputs[0].finish_reason == "abort"
        assert len(aborted.outputs[0].token_ids) >= 64
        assert other.outputs[0].token_ids == alone
        assert engine.stats().num_waiting == 0
        check_idle(engine)


def test_memory_and_time_follow_what_is_written(long: Engine, monkeypatch):
    """An answer of some 100 tokens: a cap of 4,096 costs what a cap of 128 costs, in bytes and in rows."""
    open_slots, used = long._runner.open, []

    def opened(*args):
        slots = open_slots(*args)
        used[-1] = max(used[-1], long._runner._runtime.kv_used_bytes)
        return slots

    monkeypatch.setattr(long._runner, "open", opened)
    rows = []
    for cap in (128, 4096):
        used.append(0)
        params = BASE.replace(gen_length=cap, block_length=32, suffix_window=32, cache="dual", max_nfe=100)
        completion = long.generate(PROMPT, params)[0].outputs[0]
        assert completion.diffusion.nfe == 100
        rows.append(completion.diffusion.num_query_rows)
    assert used[0] > 0
    assert used[1] <= 1.15 * used[0]
    assert rows[1] <= 1.15 * rows[0]


def test_an_end_token_ends_it(engine: Engine):
    """The blocks after one that settled an end are not computed, and the rest of the window is no text."""
    params = BASE.replace(gen_length=90, block_length=8, suffix_window=8, eos_early_stop=True, temperature=2.0)
    for seed in range(40):
        completion = engine.generate(PROMPT, params.replace(seed=seed))[0].outputs[0]
        run = generate(
            StreamingModel(CHECKPOINT),
            PROMPT,
            Params(steps=90, gen_length=90, block_length=8, temperature=2.0, seed=seed, propose_mask=False),
            IDS,
            8,
            ends=(IDS.eos, IDS.eot),
        )
        if completion.finish_reason == "stop":
            done = run.canvas[len(PROMPT) :].tolist()
            end = next(index for index, token in enumerate(done) if token in (IDS.eos, IDS.eot))
            assert completion.token_ids == done[:end]
            assert completion.diffusion.nfe == run.num_forward < 90
            return
    pytest.fail("no seed gave an end token")


@pytest.mark.parametrize("mode", ["append", "denoise"])
def test_it_streams(speaker: Engine, mode):
    params = SamplingParams(preset="streaming", gen_length=60, block_length=8, suffix_window=8, seed=1)
    expected = speaker.generate("abc", params)[0]
    events = list(speaker.stream("abc", params, mode=mode))
    assert "".join(event.text_delta for event in events) == expected.text
    if mode == "denoise":
        assert all(len(event.canvas) <= 3 + 60 for event in events)
        assert len(events[0].canvas) == 3 + 8 + 8
    check_idle(speaker)


def test_an_audit_compares_with_the_same_window(engine: Engine):
    params = BASE.replace(gen_length=60, block_length=8, suffix_window=8)
    exact = engine.generate(PROMPT, params.replace(audit=1))[0].outputs[0]
    assert exact.audit.max_kl == 0
    cached = engine.generate(PROMPT, params.replace(cache="dual", audit=1))[0].outputs[0]
    assert cached.audit.num_steps > 0
    assert cached.tokens == engine.generate(PROMPT, params.replace(cache="dual"))[0].outputs[0].tokens


def test_a_grammar_in_a_window(speaker: Engine):
    params = SamplingParams(preset="streaming", gen_length=40, regex="[a-c]{5,40}")
    assert re.fullmatch("[a-c]{5,40}", speaker.generate("abc", params)[0].text)


@pytest.mark.parametrize("window", [0, -1, 1.5, "a", True])
def test_bad_windows(window):
    with pytest.raises(InvalidRequestError, match="suffix_window"):
        SamplingParams(suffix_window=window)


def test_what_excludes_a_window(speaker: Engine):
    with pytest.raises(InvalidRequestError, match="exclude each other"):
        SamplingParams(preset="quality", suffix_window=8, block_order="confidence")
    with pytest.raises(InvalidRequestError, match="expected block_length beside it"):
        SamplingParams(suffix_window=8)
    assert SamplingParams(preset="streaming", block_length=None).suffix_window is None
    given = SamplingParams(preset="quality", suffix_window=8, gen_length=8)
    with pytest.raises(InvalidRequestError, match="all open"):
        speaker.infill(["ab", 4, "c"], given)
    with pytest.raises(InvalidRequestError, match="all open"):
        speaker.generate({"prompt": "ab", "pinned": {3: 5}}, given)
    # What a preset says gives way.
    assert speaker.infill(["ab", 4, "c"], SamplingParams(preset="streaming")).text
    assert SamplingParams(preset="streaming", block_order="confidence").suffix_window is None


def test_the_window_is_seen(engine: Engine):
    """Another window is another answer: the masks are there and the last one is where it says."""
    params = BASE.replace(gen_length=60, block_length=8)
    answers = {window: engine.generate(PROMPT, params.replace(suffix_window=window))[0].outputs[0] for window in (1, 9)}
    assert not np.array_equal(answers[1].token_ids, answers[9].token_ids)
