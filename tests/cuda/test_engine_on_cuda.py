"""The engine on the CUDA backend: the same tokens as the reference, graphs that are made once, typed refusals."""

import numpy as np
import pytest

from llada_rt import Engine, SamplingParams, _core
from llada_rt.errors import DeviceError, OutOfMemoryError
from llada_rt.runtime import device
from llada_rt.runtime.footprint import Load, footprint_of
from tests.denoise.test_committed_goldens import (
    CHECKPOINT,
    GROUPS,
    IDS,
    RULE_GROUPS,
    assert_as_recorded,
    is_infill,
    label,
    params_of,
    prompt_of,
    segments,
)

OPTIONS = {"compute_type": "float32", "threads": 2, "max_num_seqs": 16, "eot_token_id": IDS["eot"]}
has_gpu = device.missing_cuda() is None
# The imitation takes seconds for what a GPU does in no time: it runs a case of each group, a GPU runs all.
MOST_CASES = 1000 if has_gpu else 1


def is_slow(group: dict) -> bool:
    """Long answers take the imitation longest: each cache has one at a time, and with one of the thresholds. Each rule
    of later papers has two, a guided one and a noisy one.
    """
    params = group["params"]
    is_shown = params["gen_length"] == 22 or (params["cache"] == "dual" and params["temperature"] > 0)
    is_long = params["gen_length"] == 56 and params.get("threshold") in (0.3, 0.9)
    return not has_gpu and (is_long or (group in RULE_GROUPS and not is_shown))


@pytest.mark.parametrize("group", [pytest.param(g, id=label(g), marks=[pytest.mark.slow] * is_slow(g)) for g in GROUPS])
def test_committed_runs(group: dict, open_engine):
    params, cases = params_of(group), group["cases"][:MOST_CASES]
    with open_engine(CHECKPOINT, **OPTIONS) as engine:
        for case in cases:
            if is_infill(group):
                assert_as_recorded(case, engine.infill(segments(case["canvas"]), params), is_cut=False)
            else:
                output = engine.generate(prompt_of(case), params)[0]
                assert_as_recorded(case, output, is_cut=params.preset != "reference")


def test_neighbours_are_not_felt(open_engine):
    """A ragged batch of requests with options of their own, in bfloat16: each as if it were alone."""
    groups = [group for group in GROUPS if not is_infill(group)][:: 1 if has_gpu else 18]
    pairs = [(group["cases"][0], params_of(group)) for group in groups]
    with open_engine(CHECKPOINT, **OPTIONS | {"compute_type": "bfloat16"}) as engine:
        together = engine.generate([prompt_of(case) for case, _ in pairs], [params for _, params in pairs])
        for (case, params), output in zip(pairs, together, strict=True):
            alone = engine.generate(prompt_of(case), params)[0]
            assert [t.id for t in alone.outputs[0].tokens] == [t.id for t in output.outputs[0].tokens]
            assert [t.confidence for t in alone.outputs[0].tokens] == [t.confidence for t in output.outputs[0].tokens]


@pytest.mark.parametrize("compute_type", ["bfloat16", "int8", "int8_bfloat16", "int4", "float8"])
def test_logits_agree_with_the_processor(compute_type: str, open_engine):
    tokens = GROUPS[0]["cases"][0]["canvas"]
    with open_engine(CHECKPOINT, compute_type=compute_type) as engine:
        got = engine.forward(tokens)
    with Engine(CHECKPOINT, device="cpu", compute_type="float32") as engine:
        want = engine.forward(tokens)
    with Engine(CHECKPOINT, device="cpu", compute_type="int8" if compute_type == "float8" else compute_type) as engine:
        beside = engine.forward(tokens)
    allowed = 2 * np.sqrt(np.mean((beside - want) ** 2))
    assert np.sqrt(np.mean((got - want) ** 2)) <= allowed * (3 if compute_type == "float8" else 1)  # 3 bits of mantissa


def test_a_step_that_comes_again_is_a_graph(open_engine, imitation):
    """Nothing is recorded or allocated when a request of a known shape comes for the third time."""
    params = SamplingParams(gen_length=32, block_length=16, steps=16, cache="dual")
    count = imitation.llada_cuda_count
    with open_engine(CHECKPOINT, **OPTIONS) as engine:
        prompt = {"prompt_token_ids": [5, 6, 7, 8, 9]}
        first = engine.generate(prompt, params)[0]
        engine.generate(prompt, params)
        before = [count(what) for what in (b"captures", b"allocations", b"taken_bytes")]
        launches = count(b"graph_launches")
        third = engine.generate(prompt, params)[0]
        assert [count(what) for what in (b"captures", b"allocations", b"taken_bytes")] == before
        assert count(b"graph_launches") - launches == third.outputs[0].diffusion.nfe
        assert third.outputs[0].token_ids == first.outputs[0].token_ids


def test_all_memory_comes_back(open_engine, imitation):
    before = imitation.llada_cuda_count(b"taken_bytes")
    with open_engine(CHECKPOINT, **OPTIONS) as engine:
        engine.generate({"prompt_token_ids": [5, 6, 7]}, SamplingParams(gen_length=8, block_length=8, steps=2))
        assert imitation.llada_cuda_count(b"taken_bytes") > before
    assert imitation.llada_cuda_count(b"taken_bytes") == before


def test_weights_that_do_not_fit_are_refused_with_the_numbers(open_engine, imitation):
    import ctypes

    set_memory = imitation.llada_cuda_set_memory
    set_memory.argtypes = [ctypes.c_int64]
    set_memory(imitation.llada_cuda_count(b"taken_bytes") + 10_000)
    try:
        with pytest.raises(OutOfMemoryError, match=r"expected \d+ bytes of free device memory .* got 10000"):
            open_engine(CHECKPOINT)
    finally:
        set_memory(4 << 30)


@pytest.mark.parametrize("compute_type", _core.COMPUTE_TYPES)
def test_weights_take_what_was_planned(compute_type: str, open_engine):
    with open_engine(CHECKPOINT, compute_type=compute_type) as engine:
        load = Load(1, 64, 32, 4096, 1)
        plan = footprint_of(CHECKPOINT, load, compute_type=compute_type, table=device.CUDA_TABLE, process_bytes=0)
        assert plan.terms[0].num_bytes == engine.info()["weight_bytes"]


def test_a_device_that_is_not_there(open_engine):
    with pytest.raises(DeviceError, match="device index from 0 to"):
        Engine(CHECKPOINT, device="cuda:99")


def test_trace_times_single_ops(open_engine):
    with open_engine(CHECKPOINT, **OPTIONS) as engine:
        runtime = engine._runner._runtime
        runtime.set_trace(True)
        engine.generate({"prompt_token_ids": [5, 6, 7]}, SamplingParams(gen_length=8, block_length=8, steps=2))
        trace = runtime.trace()
    assert {"matmul", "attention", "candidates", "commit", "finish", "denoise"} <= set(trace)


@pytest.mark.skipif(has_gpu, reason="there is a GPU here")
def test_without_a_gpu_the_reason_is_said():
    with pytest.raises(DeviceError, match="there is 'cpu' with the tables") as caught:
        Engine(CHECKPOINT, device="cuda")
    assert caught.value.param == "device"
    with Engine(CHECKPOINT, device="auto") as engine:
        assert engine.info()["device"] == "cpu"
        assert engine.info()["gpu"] is None


class _Stream:
    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, 4096


@pytest.mark.parametrize(
    ("stream", "handle"),
    [(None, 0), (7, 7), (_Stream(), 4096), (type("Torch", (), {"cuda_stream": 12})(), 12)],
)
def test_streams_of_others(stream, handle):
    assert device.stream_handle(stream) == handle


@pytest.mark.parametrize("stream", ["0", True, -1, object()])
def test_what_is_no_stream(stream):
    with pytest.raises(DeviceError, match="expected an object with __cuda_stream__"):
        device.stream_handle(stream)
