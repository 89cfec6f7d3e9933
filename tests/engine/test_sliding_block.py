"""block_order sliding and sliding_greedy, with the dsb cache: the published rule, token by token."""

import itertools

import pytest

from llada_rt import Engine, InvalidRequestError, SamplingParams
from llada_rt.planning.plan import Commit, Span
from llada_rt.planning.sliding import SlidingCanvas
from tests.data.make_goldens import CHECKPOINT, IDS
from tests.engine.conftest import check_idle
from tests.reference.denoise import Params
from tests.reference.forward import Model
from tests.reference.sliding import generate

PROMPT = [7, 99, 23, 41, 5]
BASE = SamplingParams(preset="quality", eos_early_stop=False, return_tokens=True)
RULES = [
    {"steps": 40},
    {"steps": 17},
    {"threshold": 0.02},
    {"factor": 1.9},
    {"steps": 40, "temperature": 0.8, "seed": 3},
    {"threshold": 0.03, "cfg_scale": 0.7},
    {"threshold": 0.1, "threshold_alpha": 0.9},
    {"local_leap": 0.05, "local_leap_threshold": 0.02, "local_leap_radius": 2},
]


@pytest.mark.parametrize("order", ["sliding", "sliding_greedy"])
@pytest.mark.parametrize("cache", ["none", "dsb"])
@pytest.mark.parametrize(("rule", "block"), [*itertools.product(RULES, (4, 16))], ids=str)
def test_tokens_are_the_references(engine: Engine, order, cache, rule, block):
    case = {"gen_length": 40, "block_length": block, "cache": cache, **rule}
    params = Params(**{"propose_mask": False, "steps": 40, **case})
    run = generate(Model(CHECKPOINT), PROMPT, params, IDS, greedy=order == "sliding_greedy")
    completion = engine.generate(PROMPT, BASE.replace(**case, block_order=order))[0].outputs[0]
    assert completion.token_ids == run.canvas[len(PROMPT) :].tolist()
    assert {token.position: token.step for token in completion.tokens} == {c.position: c.step for c in run.commits}
    assert completion.diffusion.nfe == run.num_forward
    assert completion.diffusion.num_query_rows == sum(run.query_lengths)


def test_neighbours_are_not_felt(engine: Engine):
    params = [
        BASE.replace(gen_length=40, block_length=8, cache="dsb", block_order=order, seed=index, **rule)
        for index, (order, rule) in enumerate(itertools.product(["sliding", "sliding_greedy"], RULES[1:4]))
    ]
    prompts = [PROMPT[: 1 + index % 5] for index in range(len(params))]
    together = engine.generate([*prompts, PROMPT], [*params, BASE.replace(gen_length=24, block_length=8)])
    for prompt, one, output in zip(prompts, params, together, strict=False):
        assert engine.generate(prompt, one)[0].outputs[0].tokens == output.outputs[0].tokens
    check_idle(engine)


@pytest.mark.parametrize("is_greedy", [False, True])
def test_where_the_block_is(is_greedy):
    canvas = SlidingCanvas([1, 2, *[0] * 10], mask_id=0, span=Span(2, 12), block_length=4, is_greedy=is_greedy)
    assert canvas.block == Span(2, 6)
    canvas.commit([Commit(3, 9, 1.0, 0), Commit(4, 9, 1.0, 0)])
    assert canvas.block == (Span(2, 8) if is_greedy else Span(2, 6))
    assert canvas.num_masked == (4 if is_greedy else 2)
    canvas.commit([Commit(2, 9, 1.0, 0)])
    assert canvas.block == Span(5, 9)
    assert (canvas.last_start, canvas.block_index) == (2, 0)
    canvas.commit([Commit(position, 9, 1.0, 0) for position in range(5, 12)])
    canvas.next_block()
    assert canvas.is_complete


def test_an_end_token_ends_it_at_once(engine: Engine):
    params = BASE.replace(
        gen_length=80, block_length=8, eos_early_stop=True, temperature=2.0, block_order="sliding", cache="dsb"
    )
    own = {"steps": 80, "gen_length": 80, "block_length": 8, "temperature": 2.0, "propose_mask": False, "cache": "dsb"}
    for seed in range(60):
        completion = engine.generate(PROMPT, params.replace(seed=seed))[0].outputs[0]
        if completion.finish_reason == "stop":
            ends = (IDS.eos, IDS.eot)
            run = generate(Model(CHECKPOINT), PROMPT, Params(seed=seed, **own), IDS, greedy=False, ends=ends)
            done = run.canvas[len(PROMPT) :].tolist()
            assert completion.token_ids == done[: next(i for i, token in enumerate(done) if token in ends)]
            assert completion.diffusion.nfe == run.num_forward < 80
            return
    pytest.fail("no seed gave an end token")


def test_templates_and_streams(speaker: Engine):
    params = SamplingParams(preset="quality", block_order="sliding_greedy", cache="dsb", block_length=4, threshold=0.02)
    completion = speaker.infill(["ab", 6, "c", 5, "d"], params).outputs[0]
    assert completion.text.startswith("ab")
    assert completion.text.endswith("d")
    params = params.replace(gen_length=30, seed=2)
    expected = speaker.generate("abc", params)[0].text
    for mode in ("append", "denoise"):
        assert "".join(event.text_delta for event in speaker.stream("abc", params, mode=mode)) == expected
    params = params.replace(threshold=0.9)
    audited = speaker.generate("abc", params.replace(audit=1))[0].outputs[0]
    assert audited.text == speaker.generate("abc", params)[0].text
    assert audited.audit.num_steps > 0
    check_idle(speaker)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "quality", "block_order": "sliding", "cache": "dual"}, "expected none or dsb"),
        ({"preset": "quality", "cache": "dsb"}, "expected block_order sliding or sliding_greedy"),
        ({"preset": "quality", "block_order": "confidence", "cache": "dsb"}, "expected block_order sliding"),
        ({"preset": "reference", "block_order": "sliding"}, "the reference preset"),
        ({"preset": "quality", "block_order": "sliding", "suffix_window": 8}, "exclude each other"),
        ({"preset": "quality", "block_order": "slide"}, "block_order"),
    ],
    ids=str,
)
def test_what_cannot_be_together(options, words):
    with pytest.raises(InvalidRequestError, match=words):
        SamplingParams(**options)


def test_what_a_preset_says_gives_way(speaker: Engine):
    assert SamplingParams(preset="fast", block_order="sliding").cache == "none"
    assert SamplingParams(preset="fast", block_order="sliding", cache="dsb").threshold == 0.9
    with pytest.raises(InvalidRequestError, match="left_to_right"):
        speaker.generate("a", SamplingParams(preset="quality", gen_length=9, block_order="sliding", regex="a+"))
