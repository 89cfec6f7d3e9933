"""infill: holes are filled, everything else stays, whatever the options."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llada_rt import Engine, SamplingParams
from llada_rt.planning.caches import FIXED_BLOCK_CACHES
from tests.data.make_goldens import IDS

OPTIONS = [
    {},
    {"block_length": 4, "preset": "quality"},
    {"preset": "fast"},
    {"preset": "balanced", "block_length": 3, "factor": 1.0},
    {"temperature": 1.0, "seed": 3, "remasking": "random"},
    {"cfg_scale": 1.0},
    {"steps": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_fixed_tokens_stay_and_holes_are_filled(engine: Engine, options):
    segments = [[1, 2], 3, [3], 1, [4, 5, 6, 7, 8, 9], 5, [10]]
    template = [1, 2, *[None] * 3, 3, None, 4, 5, 6, 7, 8, 9, *[None] * 5, 10]
    output = engine.infill(segments, SamplingParams(**options, return_tokens=True))
    completion = output.outputs[0]
    assert output.prompt_token_ids == []
    assert len(completion.token_ids) == len(template)
    for position, (token, fixed, info) in enumerate(
        zip(completion.token_ids, template, completion.tokens, strict=True)
    ):
        assert info.position == position
        if fixed is None:
            assert token != IDS.mask
            assert info.step is not None
        else:
            assert token == fixed
            assert (info.step, info.block, info.confidence) == (None, None, None)
    assert completion.diffusion.canvas_tokens == 9
    assert completion.diffusion.nfe <= 9
    assert completion.finish_reason == "length"


def test_one_token_a_step_by_default(engine: Engine):
    for options in ({}, {"block_length": 4, "preset": "quality"}):
        stats = engine.infill([[1], 3, [2] * 9, 4], SamplingParams(**options)).outputs[0].diffusion
        assert (stats.nfe, stats.tokens_per_forward) == (7, 1.0)


def test_the_holes_may_be_everything(engine: Engine):
    assert len(engine.infill([5], SamplingParams()).outputs[0].token_ids) == 5
    assert len(engine.infill([2, 3], SamplingParams()).outputs[0].token_ids) == 5


def test_text_is_put_together(speaker: Engine):
    output = speaker.infill(["床前", 2, "光，", [65, 66], 1], SamplingParams())
    text = output.text
    assert text.startswith("床前")
    assert "ab" in text
    assert output.outputs[0].token_ids[:2] == speaker.tokenizer.encode("床前")


def test_a_prompt_may_come_first(engine: Engine):
    with_prompt = engine.generate({"prompt_token_ids": [7, 8], "segments": [[1], 3, [2]]}, SamplingParams())[0]
    assert with_prompt.prompt_token_ids == [7, 8]
    assert len(with_prompt.outputs[0].token_ids) == 5
    in_one = engine.infill([[7, 8, 1], 3, [2]], SamplingParams()).outputs[0].token_ids
    assert in_one == [7, 8, *with_prompt.outputs[0].token_ids]


def test_many_at_once_are_as_alone(engine: Engine):
    requests = [{"segments": [[n], 3, [n + 1, n + 2], 2]} for n in range(0, 60, 7)]
    params = SamplingParams(block_length=4, preset="quality")
    alone = [engine.infill(request["segments"], params).outputs[0].token_ids for request in requests]
    assert [output.outputs[0].token_ids for output in engine.generate(requests, params)] == alone


def test_a_suffix_of_masks_is_a_generation(engine: Engine):
    params = SamplingParams(gen_length=12, preset="quality", block_length=4, eos_early_stop=False)
    generated = engine.generate([[1, 2, 3]], params.replace(return_tokens=True))[0].outputs[0]
    filled = engine.infill([[1, 2, 3], 12], params).outputs[0].token_ids
    assert filled[3 : 3 + len(generated.token_ids)] == generated.token_ids


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    segments=st.lists(
        st.one_of(st.integers(1, 6), st.lists(st.integers(0, 155), min_size=0, max_size=6)), min_size=1, max_size=8
    ).filter(lambda segments: any(isinstance(segment, int) for segment in segments)),
    block_length=st.integers(1, 40),
    cache=st.sampled_from(sorted(FIXED_BLOCK_CACHES)),
)
def test_any_template(engine: Engine, segments, block_length, cache):
    params = SamplingParams(preset="quality", block_length=block_length, cache=cache)
    tokens = engine.infill(segments, params).outputs[0].token_ids
    at = 0
    for segment in segments:
        if isinstance(segment, int):
            assert IDS.mask not in tokens[at : at + segment]
            at += segment
        else:
            assert tokens[at : at + len(segment)] == segment
            at += len(segment)
    assert at == len(tokens)
