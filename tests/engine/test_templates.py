"""Templates beyond holes of one length: bounded holes, an open end, pinned tokens, a suffix, blocks by confidence."""

import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llada_rt import ContextLengthError, Engine, Hole, InvalidRequestError, SamplingParams
from llada_rt.planning.caches import FIXED_BLOCK_CACHES
from llada_rt.planning.plan import Span
from llada_rt.text.template import MAX_VARIANTS, Template, neighbours, variants
from tests.data.make_goldens import IDS
from training.tasks.verse import VerseBook

QUALITY = SamplingParams(preset="quality", gen_length=12, block_length=4, return_tokens=True)


def ids_of(engine: Engine, prompt, params=QUALITY):
    return engine.generate(prompt, params)[0].outputs[0].token_ids


# ---------------------------------------------------------------- bounded holes


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_the_length_that_tells_best_what_stands_beside_it(engine: Engine):
    lengths = set()
    for start in range(0, 60, 6):
        fixed = [start + n for n in range(6)], [start + n for n in range(50, 56)]
        fits = []
        for length in range(1, 5):
            completion = engine.infill([fixed[0], length, fixed[1], 2], QUALITY).outputs[0]
            # Four neighbours on each side of the first hole; the second begins six after it, so all between are near.
            beside = [*range(2, 6), *range(6 + length, 12 + length)]
            canvas = np.array(completion.token_ids)
            wanted = canvas[beside]
            canvas[beside] = IDS.mask
            fits.append((log_softmax(engine.forward(canvas))[beside, wanted].mean(), completion))
        best = max(fits, key=lambda fit: fit[0])[1]
        segments = [fixed[0], {"hole": [1, 4]}, fixed[1], 2]
        for form in (segments, [fixed[0], Hole((1, 4)), fixed[1], 2], json.loads(json.dumps(segments))):
            chosen = engine.infill(form, QUALITY).outputs[0]
            assert chosen.token_ids == best.token_ids
            assert chosen.tokens == best.tokens
            assert chosen.holes == best.holes
        lengths.add(len(best.token_ids))
    assert len(lengths) > 1


def test_with_nothing_beside_it_the_surest_filling(engine: Engine):
    tried = [engine.infill([length], QUALITY.replace(logprobs=0)).outputs[0] for length in range(1, 5)]
    best = max(tried, key=lambda completion: np.mean(completion.logprobs))
    assert engine.infill([Hole((1, 4))], QUALITY).outputs[0].token_ids == best.token_ids


def test_neighbours():
    template = Template(tuple(range(20)), (Span(2, 4), Span(10, 11), Span(12, 13)), open_from=15)
    assert neighbours(template, 0) == [0, 1, 4, 5, 6, 7, 8, 9, 11, 13, 14]
    assert neighbours(template, 1) == [0, 1, 2, 5, 6, 7, 8, 9, 10, 12, 14, 15]
    assert neighbours(template, 9) == [7, 8, 9, 10, 13, 14, 15, 16, 17, 18, 20, 22, 23]
    assert neighbours(Template((1, 2), (Span(0, 2),)), 0) == []


def test_variants():
    prompt = {"segments": [[1], Hole((2, 3)), [5], {"hole": (1, 2)}, 4], "prompt_token_ids": [9]}
    lengths = [[segment for segment in variant["segments"] if isinstance(segment, int)] for variant in variants(prompt)]
    assert lengths == [[2, 1, 4], [2, 2, 4], [3, 1, 4], [3, 2, 4]]
    assert all(variant["prompt_token_ids"] == [9] for variant in variants(prompt))
    for plain in ([1, 2], "text", {"segments": [[1], 3]}, {"segments": "abc"}, {"segments": [Hole((3, 3))]}):
        assert variants(plain) == [plain]


def test_the_demo_finds_how_many_characters_are_missing():
    poems = [poem.text for poem in VerseBook.select(max_chars=28).poems[:24:2]]
    cuts = [(9, 9 + 1 + index % 4) for index in range(len(poems))]
    requests = [{"segments": [p[:a], Hole((1, 6)), p[b:]]} for p, (a, b) in zip(poems, cuts, strict=True)]
    with Engine(compute_type="float32", threads=1) as demo:
        outputs = demo.generate(requests, SamplingParams())
    right = 0
    for output, poem, (begin, end) in zip(outputs, poems, cuts, strict=True):
        (hole,) = output.outputs[0].holes
        assert output.text == poem[:begin] + hole.text + poem[end:]
        assert output.outputs[0].diffusion.nfe == len(hole.token_ids)
        right += hole.text == poem[begin:end]
    assert right == len(poems)


def test_samples_of_a_bounded_hole(engine: Engine):
    hot = QUALITY.replace(temperature=1.5, seed=3, n=3)
    output = engine.infill([[1, 2], Hole((1, 4)), [3]], hot)
    assert [completion.index for completion in output.outputs] == [0, 1, 2]
    for completion in output.outputs:
        alone = engine.infill([[1, 2], Hole((1, 4)), [3]], hot.replace(n=1, seed=completion.seed))
        assert alone.outputs[0].token_ids == completion.token_ids
    assert len({tuple(completion.token_ids) for completion in output.outputs}) > 1


BAD_HOLES = [
    (Hole, (0,), "at least one"),
    (Hole, ((0, 3),), "at least one"),
    (Hole, ((3, 2),), "in this order"),
    (Hole, ((1, 2, 3),), "least, most"),
    (Hole, ("3",), "least, most"),
    (Hole, (True,), "least, most"),
    (Hole, ((1, 2.5),), "least, most"),
]


@pytest.mark.parametrize(("kind", "arguments", "words"), BAD_HOLES, ids=str)
def test_bad_holes(kind, arguments, words):
    with pytest.raises(InvalidRequestError, match=words):
        kind(*arguments)


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        ([[1], {"hole": [1, 2, 3]}], r"segments\[1\]: .*least, most"),
        ([[1], {"hole": None}], r"segments\[1\]"),
        ([[1], {}], r"segments\[1\]: .*nothing"),
        ([[1], {"gap": 3}], r"segments\[1\]: .*gap"),
        ([Hole((1, MAX_VARIANTS + 1))], f"allow {MAX_VARIANTS + 1} templates"),
        ([Hole((1, 30)), Hole((1, 30))], "allow 900 templates"),
    ],
    ids=str,
)
def test_bad_segments(engine: Engine, segments, words):
    with pytest.raises(InvalidRequestError, match=words):
        engine.infill(segments, QUALITY)


def test_a_bounded_hole_must_fit_at_its_longest_and_cannot_be_streamed(engine: Engine):
    with pytest.raises(ContextLengthError, match="128"):
        engine.infill([[1] * 100, Hole((1, 29))], QUALITY)
    with pytest.raises(InvalidRequestError, match="cannot be streamed"):
        engine.stream({"segments": [[1], Hole((1, 3))]}, QUALITY)


def test_other_requests_go_on_beside_a_bounded_hole(engine: Engine):
    prompts = [[1, 2], {"segments": [[3, 4], Hole((1, 5)), [6]]}, [7]]
    alone = [ids_of(engine, prompt) for prompt in prompts]
    assert [output.outputs[0].token_ids for output in engine.generate(prompts, QUALITY)] == alone


def test_a_bounded_hole_can_be_aborted_and_has_a_deadline(engine: Engine):
    (output,) = engine.generate({"segments": [[1], Hole((20, 30)), [2]]}, QUALITY.replace(max_nfe=3))
    assert output.outputs[0].finish_reason == "max_nfe"


# ---------------------------------------------------------------- an open end, a suffix, pinned tokens


@pytest.mark.parametrize("cache", sorted(FIXED_BLOCK_CACHES))
def test_an_open_end_is_a_response_after_the_template(engine: Engine, cache):
    params = QUALITY.replace(cache=cache)
    seen = set()
    starts = range(0, 150, 3)
    prompts = [{"segments": [[n, n + 1], 1, [n + 2]], "open_end": True} for n in starts]
    for start, output in zip(starts, engine.generate(prompts, params), strict=True):
        completion = output.outputs[0]
        ids = completion.token_ids
        assert ids[:2] == [start, start + 1]
        assert ids[3] == start + 2
        assert IDS.mask not in ids
        assert 4 <= len(ids) <= 16
        assert not {IDS.eos, IDS.eot} & {*ids[4:]}
        assert completion.finish_reason == ("stop" if len(ids) < 16 else "length")
        assert [(hole.start, len(hole.token_ids)) for hole in completion.holes] == [(2, 1)]
        assert completion.diffusion.canvas_tokens == 13
        seen.add(completion.finish_reason)
    assert seen == {"stop", "length"}


def test_an_end_token_within_the_template_ends_nothing(engine: Engine):
    prompt = {"segments": [[IDS.eos, 7], 2, [IDS.eot]], "open_end": True}
    completion = engine.generate(prompt, QUALITY)[0].outputs[0]
    assert completion.token_ids[:2] == [IDS.eos, 7]
    assert completion.token_ids[4] == IDS.eot
    assert len(completion.token_ids) >= 5


def test_an_open_end_alone_after_fixed_text_is_a_generation(engine: Engine):
    generated = engine.generate([[1, 2, 3]], QUALITY)[0].outputs[0]
    opened = engine.generate({"segments": [[1, 2, 3]], "open_end": True}, QUALITY)[0].outputs[0]
    assert opened.token_ids == [1, 2, 3, *generated.token_ids]
    assert opened.diffusion.nfe == generated.diffusion.nfe
    assert opened.holes == []


def test_an_open_end_can_be_streamed(speaker: Engine):
    prompt = {"segments": ["床前", 3, "光"], "open_end": True}
    expected = speaker.generate(prompt, QUALITY)[0]
    events = list(speaker.stream(prompt, QUALITY))
    assert "".join(event.text_delta for event in events) == expected.text == events[-1].output.text
    assert "".join(event.text_delta for event in speaker.stream(prompt, QUALITY, mode="append")) == expected.text


def test_a_suffix_is_a_hole_before_a_text(engine: Engine):
    filled = engine.infill([[1, 2, 3], 12, [8, 9]], QUALITY).outputs[0].token_ids
    output = engine.generate({"prompt_token_ids": [1, 2, 3], "suffix": [8, 9]}, QUALITY)[0]
    assert output.prompt_token_ids == [1, 2, 3]
    assert output.outputs[0].token_ids == filled[3:]
    assert engine.fill_middle([1, 2, 3], [8, 9], QUALITY).outputs[0].holes[0].token_ids == filled[3:15]


def test_the_middle_as_text():
    with Engine(compute_type="float32", threads=1) as demo:
        output = demo.fill_middle("白日依", "，黄河入海流。", SamplingParams(gen_length=2))
        assert output.outputs[0].holes[0].text == "山尽"
        assert output.text == "山尽，黄河入海流。"
        assert (
            demo.fill_middle("", "前明月光，疑是地上霜。", SamplingParams(gen_length=1)).outputs[0].holes[0].text
            == "床"
        )


@pytest.mark.parametrize("preset", ["reference", "quality"])
@pytest.mark.parametrize("cache", ["none", "dual_compact"])
def test_pinned_tokens_stay_where_they_are(engine: Engine, preset, cache):
    params = QUALITY.replace(preset=preset, block_length=4, eos_early_stop=False, cache=cache)
    for pinned in ({0: 5, 7: 6}, {"3": 44, "11": 45}, {4: 1, 5: 2, 6: 3, 7: 4}):
        output = engine.generate({"prompt_token_ids": [1, 2], "pinned": pinned}, params)[0]
        completion = output.outputs[0]
        for position, token in pinned.items():
            if int(position) < len(completion.token_ids):
                assert completion.token_ids[int(position)] == token
                assert completion.tokens[int(position)].step is None
        assert completion.diffusion.nfe <= 12 - len(pinned)
        assert completion.diffusion.canvas_tokens == 12 - len(pinned)


def test_nothing_pinned_is_a_generation(engine: Engine):
    assert ids_of(engine, {"prompt_token_ids": [1, 2], "pinned": {}}) == ids_of(engine, [1, 2])


BAD_ANSWERS = [
    ({"pinned": [3]}, "pinned"),
    ({"pinned": {12: 3}}, "0 to 11"),
    ({"pinned": {-1: 3}}, "0 to 11"),
    ({"pinned": {"x": 3}}, "0 to 11"),
    ({"pinned": {1.5: 3}}, "0 to 11"),
    ({"pinned": {2: 160}}, "0 to 159"),
    ({"pinned": {2: "a"}}, "token id"),
    ({"pinned": {2: IDS.mask}}, "mask"),
    ({"pinned": {n: 3 for n in range(12)}}, "left open"),
    ({"suffix": [3], "segments": [4]}, "suffix"),
    ({"suffix": [IDS.mask]}, "mask"),
    ({"suffix": 5, "pinned": {}}, "pinned"),
    ({"open_end": True}, "open_end"),
    ({"segments": [[1], 2], "open_end": 3}, "open_end"),
    ({"segments": [], "open_end": True}, "segments"),
]


@pytest.mark.parametrize(("more", "words"), BAD_ANSWERS, ids=[str(bad[0])[:50] for bad in BAD_ANSWERS])
def test_bad_answers(engine: Engine, more, words):
    with pytest.raises(InvalidRequestError, match=words):
        engine.generate({"prompt_token_ids": [1, 2]} | more, QUALITY)


# ---------------------------------------------------------------- blocks by confidence


@pytest.mark.parametrize("cache", sorted(FIXED_BLOCK_CACHES))
@pytest.mark.parametrize("options", [{}, {"threshold": 0.3}, {"cfg_scale": 0.5}, {"steps": 5}], ids=str)
def test_the_block_of_the_surest_token_comes_next(engine: Engine, cache, options):
    params = QUALITY.replace(cache=cache, block_order="confidence", **options)
    segments = [[1, 2], 6, [3, 4, 5], 2, [6], 7, [7]]
    template = [1, 2, *[None] * 6, 3, 4, 5, None, None, 6, *[None] * 7, 7]
    completion = engine.infill(segments, params).outputs[0]
    for token, fixed in zip(completion.token_ids, template, strict=True):
        assert token != IDS.mask if fixed is None else token == fixed
    infos = [info for info in completion.tokens if info.step is not None]
    assert len(infos) == 15
    # A block is decoded before the next one is chosen, and covers four positions of the canvas from the first hole on.
    blocks = {}
    for info in sorted(infos, key=lambda info: info.step):
        blocks.setdefault(info.block, set()).add((info.position - 2) // 4)
    assert list(blocks) == sorted(blocks)
    assert all(len(places) == 1 for places in blocks.values())
    assert len({place for places in blocks.values() for place in places}) == len(blocks) == 5


def test_what_is_surest_is_what_a_single_block_would_begin_with(engine: Engine):
    moved = 0
    for start in range(0, 60, 5):
        segments = [[start, start + 1], 6, [start + 2], 6]
        ordered = engine.infill(segments, QUALITY.replace(block_order="confidence")).outputs[0]
        free = engine.infill(segments, QUALITY.replace(block_length=None)).outputs[0]
        first, free_first = (
            min((i for i in c.tokens if i.step is not None), key=lambda i: i.step) for c in (ordered, free)
        )
        assert (first.position, first.id, first.confidence) == (
            free_first.position,
            free_first.id,
            free_first.confidence,
        )
        moved += first.position > 5
    assert moved


def test_one_block_has_no_order(engine: Engine):
    params = QUALITY.replace(block_length=None)
    assert ids_of(engine, [1, 2], params.replace(block_order="confidence")) == ids_of(engine, [1, 2], params)


@pytest.mark.parametrize("preset", ["reference", "quality", "fast"])
def test_a_generation_by_confidence(engine: Engine, preset):
    params = QUALITY.replace(preset=preset, block_length=4, block_order="confidence", eos_early_stop=False)
    for start in range(0, 100, 10):
        (output,) = engine.generate([[start, start + 1]], params)
        assert output.outputs[0].diffusion.nfe <= 16
        if preset != "reference":
            assert IDS.mask not in output.outputs[0].token_ids


SEGMENT = st.one_of(
    st.integers(1, 5),
    st.lists(st.integers(0, 155), max_size=5),
    st.tuples(st.integers(1, 2), st.integers(2, 3)).map(lambda bounds: {"hole": list(bounds)}),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    segments=st.lists(SEGMENT, min_size=1, max_size=6).filter(lambda all_: not all(isinstance(s, list) for s in all_)),
    cache=st.sampled_from(sorted(FIXED_BLOCK_CACHES)),
    order=st.sampled_from(["left_to_right", "confidence"]),
    open_end=st.booleans(),
)
def test_any_template(engine: Engine, segments, cache, order, open_end):
    params = QUALITY.replace(cache=cache, block_order=order)
    if math.prod(s["hole"][1] - s["hole"][0] + 1 for s in segments if isinstance(s, dict)) > 16:
        return
    completion = engine.generate({"segments": segments, "open_end": open_end}, params)[0].outputs[0]
    tokens, at = completion.token_ids, 0
    holes = iter(completion.holes)
    for segment in segments:
        if isinstance(segment, list):
            assert tokens[at : at + len(segment)] == segment
            at += len(segment)
            continue
        hole = next(holes)
        least, most = segment["hole"] if isinstance(segment, dict) else (segment, segment)
        assert least <= len(hole.token_ids) <= most
        assert (hole.start, hole.token_ids) == (at, tokens[at : at + len(hole.token_ids)])
        assert IDS.mask not in hole.token_ids
        at += len(hole.token_ids)
    assert len(tokens) == at if not open_end else at <= len(tokens) <= at + 12


@pytest.mark.parametrize("samples", [1, 2])
def test_a_bounded_hole_cut_short_says_so(engine: Engine, samples):
    """As long as a length is missing, nobody knows the best filling, whatever the others are."""
    segments, params = [[1, 2], Hole((1, 6)), [3, 4]], QUALITY.replace(n=samples, seed=1)
    best = engine.infill(segments, params)
    assert {each.finish_reason for each in best.outputs} == {"length"}
    reasons = []
    for most in range(1, 8):
        output = engine.infill(segments, params.replace(max_nfe=most))
        reasons.append(output.outputs[0].finish_reason)
        if reasons[-1] == "length":
            assert output.outputs[0].token_ids == best.outputs[0].token_ids
    assert reasons == ["max_nfe"] * 5 + ["length"] * 2
    for name, end in (("abort", lambda: engine.abort("holes")), ("timeout", lambda: set_deadline(engine, "holes"))):
        for step in range(1, 6):
            with pytest.MonkeyPatch.context() as patch:
                denoise, calls = engine._runner.denoise, []

                def counted(plan, denoise=denoise, calls=calls, step=step, end=end):
                    calls.append(None)
                    if len(calls) == step:
                        end()
                    return denoise(plan)

                patch.setattr(engine._runner, "denoise", counted)
                (output,) = engine.generate([{"segments": segments}], params, request_ids=["holes"])
            cut = [each.finish_reason for each in output.outputs]
            assert set(cut) <= {name, "length"}
            if step <= 2:
                assert name in cut
    open_end = engine.generate({"segments": [[1], Hole((1, 6)), [2]], "open_end": True}, QUALITY.replace(max_nfe=2))
    assert open_end[0].outputs[0].finish_reason == "max_nfe"
    assert engine.num_open_slots == 0


def set_deadline(engine: Engine, name: str) -> None:
    engine._dispatcher._stepper.jobs[name].deadline = 0.0
