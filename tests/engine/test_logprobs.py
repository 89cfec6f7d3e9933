"""logprobs: each token's log-probability and the most probable tokens beside it, in outputs and in events."""

import json
import random

import numpy as np
import pytest

from llada_rt import Engine, Hole, SamplingParams, TokenLogprob
from llada_rt.planning.caches import FIXED_BLOCK_CACHES
from tests.data.make_goldens import CHECKPOINT, IDS
from tests.engine.conftest import check_idle
from tests.engine.test_invariance import some_params
from tests.reference.candidates import alternatives, guide
from tests.tolerance import FORWARD_FLOOR, ROUNDING

MOST = 20
PROMPT = [5, 6, 7, 8]


def distribution(engine: Engine, canvas, params: SamplingParams) -> dict:
    """(log-probability of each token, the MOST most probable ones) by masked position, from float64 of `forward`."""
    logits = engine.forward(canvas).astype(np.float64)
    if params.cfg_scale:
        unconditional = [IDS.mask] * len(PROMPT) + list(canvas[len(PROMPT) :])
        logits = guide(logits, engine.forward(unconditional).astype(np.float64), params.cfg_scale)
    left_out = {
        "suppressed": [IDS.eos] if params.logits_eos_inf else [],
        "unconfident": [IDS.eos, IDS.eot] if params.confidence_eos_eot_inf else [],
    }
    tokens, log_probs = alternatives(logits, logits.shape[1], **left_out)
    return {position: (tokens[position], log_probs[position]) for position in np.flatnonzero(canvas == IDS.mask)}


OPTIONS = [
    {},
    {"block_length": 4},
    {"steps": 4},
    {"temperature": 1.0, "seed": 3},
    {"cfg_scale": 1.5},
    {"logits_eos_inf": True},
    {"confidence_eos_eot_inf": True},
    {"remasking": "entropy", "steps": 3},
    {"remasking": "random", "seed": 2, "temperature": 0.5, "cfg_scale": 0.5, "block_length": 8},
    {"preset": "quality", "threshold": 0.05, "block_length": 8, "eos_early_stop": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
def test_they_are_those_of_the_forward_that_committed(engine: Engine, options):
    """Each canvas as the steps left it, and a whole forward of it: the same numbers, token by token."""
    params = SamplingParams(**{"gen_length": 16} | options, logprobs=MOST)
    canvas = np.array(PROMPT + [IDS.mask] * params.gen_length)
    told = 0
    for event in engine.stream(PROMPT, params):
        expected = distribution(engine, canvas, params)
        assert [(each.position, each.id) for each in event.token_logprobs] == [
            (position, token) for position, token, _ in event.committed
        ]
        for each in event.token_logprobs:
            tokens, log_probs = expected[each.position]
            by_token = dict(zip(tokens.tolist(), log_probs.tolist(), strict=True))
            floor = {"abs": FORWARD_FLOOR["float32"] * np.abs(log_probs).max(), "rel": 0}
            assert [top.logprob for top in each.top_logprobs] == pytest.approx(log_probs[:MOST], **floor)
            assert [by_token[top.id] for top in each.top_logprobs] == pytest.approx(log_probs[:MOST], **floor)
            if each.id in by_token:  # else left out of the softmax
                assert each.logprob == pytest.approx(by_token[each.id], **floor)
            assert each.step == event.step
            told += 1
        canvas = np.array(event.canvas)
    assert told == params.gen_length


def check_list(each: TokenLogprob, count: int) -> None:
    """What holds of any list."""
    ids, numbers = [top.id for top in each.top_logprobs], [top.logprob for top in each.top_logprobs]
    assert len(set(ids)) == len(ids)
    assert all(a > b or (a == b and i < j) for (a, i), (b, j) in zip(
        zip(numbers, ids, strict=True), list(zip(numbers, ids, strict=True))[1:], strict=False
    ))  # fmt: skip
    assert np.exp(numbers).sum() <= 1 + ROUNDING["float32"]
    assert each.logprob is None or each.logprob <= ROUNDING["float32"]
    if each.step is None:
        assert (ids, each.logprob, each.block, each.confidence) == ([], None, None, None)
        return
    assert len(ids) == count
    if each.id in ids:
        assert numbers[ids.index(each.id)] == each.logprob
    elif count:
        assert each.logprob < numbers[-1]


def by_position(sample_events) -> dict:
    return {each.position: each for event in sample_events for each in event.token_logprobs}


def check_request(engine: Engine, choice: random.Random) -> int:
    params = some_params(choice).replace(logprobs=choice.choice([0, 1, 5, MOST]))
    prompt: object = choice.choices(range(150), k=choice.choice([1, 2, 7, 30, 60]))
    kind = choice.random()
    if kind < 0.2:
        prompt = {"segments": [prompt[:9], choice.randint(1, 5), [3, 1], choice.randint(1, 5)]}
        params = params.replace(stop_token_ids=[])
    elif kind < 0.35 and params.gen_length > 2:
        prompt = {"prompt_token_ids": prompt, "pinned": {0: 3, params.gen_length - 1: 9}}
    (output,) = engine.generate(prompt, params)
    (without,) = engine.generate(prompt, params.replace(logprobs=None, seed=output.params.seed))
    (shorter,) = engine.generate(prompt, params.replace(logprobs=params.logprobs // 2, seed=output.params.seed))
    modes = {mode: list(engine.stream(prompt, output.params, mode=mode)) for mode in ("append", "denoise")}
    for completion, plain, other in zip(output.outputs, without.outputs, shorter.outputs, strict=True):
        told = completion.token_logprobs
        assert (plain.token_logprobs, plain.logprobs) == (None, None)
        assert (plain.token_ids, plain.finish_reason) == (completion.token_ids, completion.finish_reason)
        assert [each.id for each in told] == completion.token_ids
        assert [each.logprob for each in told] == completion.logprobs
        assert [(t.position, t.step, t.block, t.confidence) for t in completion.tokens] == [
            (each.position, each.step, each.block, each.confidence) for each in told
        ]
        for each, half in zip(told, other.token_logprobs, strict=True):
            check_list(each, params.logprobs)
            assert half.top_logprobs == each.top_logprobs[: params.logprobs // 2]
        own = {mode: [e for e in events if e.index == completion.index] for mode, events in modes.items()}
        assert [each for event in own["append"] for each in event.token_logprobs] == told
        assert all(len(event.token_logprobs) == len(event.committed) for event in own["denoise"])
        steps = by_position(own["denoise"])
        assert all(steps[each.position] == each for each in told if each.step is not None)
    return len(output.outputs)


@pytest.mark.parametrize("seed", range(6))
def test_random_requests(seed):
    """Any preset, cache, guidance, template, samples: lists are sorted, sum to at most 1, hold the chosen token's
    number, don't change what is written, begin as longer ones do; joined events are the output.
    """
    choice = random.Random(seed)
    with Engine(CHECKPOINT, compute_type="float32", eot_token_id=IDS.eot, threads=1 + seed % 2) as engine:
        assert sum(check_request(engine, choice) for _ in range(12)) >= 12
        check_idle(engine)


@pytest.mark.parametrize("cache", sorted(FIXED_BLOCK_CACHES))
def test_an_audit_changes_nothing(engine: Engine, cache):
    params = SamplingParams(preset="quality", gen_length=24, block_length=8, cache=cache, logprobs=5)
    plain, audited = (engine.generate(PROMPT, params.replace(audit=m))[0].outputs[0] for m in (0, 1))
    assert plain.token_logprobs == audited.token_logprobs
    assert all(len(each.top_logprobs) == 5 for each in plain.token_logprobs if each.step is not None)


def test_a_flag_means_the_token_alone(engine: Engine):
    said = engine.generate(PROMPT, SamplingParams(gen_length=4, logprobs=True))[0].outputs[0]
    assert said.token_logprobs == engine.generate(PROMPT, SamplingParams(gen_length=4, logprobs=0))[0].outputs[
        0].token_logprobs  # fmt: skip
    assert all(each.top_logprobs == () and each.logprob is not None for each in said.token_logprobs)
    assert engine.generate(PROMPT, SamplingParams(gen_length=4, logprobs=False))[0].outputs[0].token_logprobs is None


def test_as_openai_has_it(speaker: Engine):
    params = SamplingParams(gen_length=12, block_length=4, preset="quality", logprobs=3, n=2, eos_early_stop=False)
    (output,) = speaker.generate("abc", params)
    known = json.loads(json.dumps(output.to_dict(), allow_nan=False))
    for sample, completion in zip(known["outputs"], output.outputs, strict=True):
        assert sample["finish_reason"] in ("stop", "length")
        for each, token in zip(sample["token_logprobs"], completion.token_logprobs, strict=True):
            assert each == json.loads(json.dumps(token.to_dict()))
            assert list(each)[:4] == ["token", "logprob", "bytes", "top_logprobs"]
            assert bytes(each["bytes"]).decode() == each["token"] == speaker.tokenizer.token_text(token.id)
            assert [list(top) for top in each["top_logprobs"]] == [["token", "logprob", "bytes", "id"]] * 3
            assert [top["token"] for top in each["top_logprobs"]] == [
                speaker.tokenizer.token_text(top.id) for top in token.top_logprobs
            ]
    for mode in ("append", "denoise"):
        for event in speaker.stream("abc", params, mode=mode):
            told = json.loads(json.dumps(event.to_dict(), allow_nan=False))["token_logprobs"]
            assert told == [json.loads(json.dumps(each.to_dict())) for each in event.token_logprobs]
            assert told or event.finished


@pytest.mark.parametrize("include", [False, True])
def test_append_events_tell_what_the_text_takes(speaker: Engine, include):
    """No event tells a token that a stop may take back: texts where a stop begins again and again, and ends once."""
    for seed in range(12):
        params = SamplingParams(
            preset="quality",
            gen_length=24,
            block_length=6,
            temperature=1.0,
            seed=seed,
            eos_early_stop=False,
            logprobs=2,
        )
        text = speaker.generate("abc", params)[0].text
        stop = [text[at : at + 2] + "\n\n" for at in range(0, len(text) - 5, 2)] + [text[-5:-2]]
        params = params.replace(stop=stop, include_stop_str_in_output=include)
        told: list[TokenLogprob] = []
        for event in speaker.stream("abc", params, mode="append"):
            told += event.token_logprobs
            assert event.finished or speaker.tokenizer.decode([each.id for each in told]) == event.text
        assert event.output.outputs[0].stop_reason == text[-5:-2]
        assert told == event.output.outputs[0].token_logprobs
        assert [each.id for each in told] == event.output.outputs[0].token_ids


def test_where_a_grammar_writes(speaker: Engine):
    """The distribution is of all tokens; what must follow is told without one."""
    params = SamplingParams(gen_length=12, preset="quality", block_length=12, regex=r"[0-9]{3}-(ab|cd)x+", logprobs=5)
    canvas = np.array([*speaker.tokenizer.encode("abc"), *[IDS.mask] * 12])
    num_chosen = num_forced = 0
    for event in speaker.stream("abc", params):
        logits = speaker.forward(canvas).astype(np.float64)
        tokens, log_probs = alternatives(logits, logits.shape[1])
        for each in event.token_logprobs:
            if each.top_logprobs:
                num_chosen += 1
                check_list(each, 5)
                own = dict(zip(tokens[each.position].tolist(), log_probs[each.position].tolist(), strict=True))
                assert [top.id for top in each.top_logprobs] == tokens[each.position][:5].tolist()
                assert [top.logprob for top in each.top_logprobs] == pytest.approx(log_probs[each.position][:5])
                assert each.logprob == pytest.approx(own[each.id])
            else:
                num_forced += each.logprob == 0
        canvas = np.array(event.canvas)
    assert num_chosen >= 4  # three digits, one of two words
    assert num_forced >= 3
    filled = speaker.infill(["ab", 4, Hole(3, regex="[0-9]+"), "c", 4], params.replace(regex=None)).outputs[0]
    by_grammar = [each for each in filled.token_logprobs if 6 <= each.position < 9]
    assert any(len(each.top_logprobs) == 5 for each in by_grammar)
    assert all(each.logprob is None for each in filled.token_logprobs if each.position in (0, 1, 9))


def test_the_demo_spells_its_bytes():
    with Engine(threads=1) as demo:
        (output,) = demo.generate("床前明月光", SamplingParams(gen_length=24, logprobs=3, temperature=1.0, seed=1))
    told = output.outputs[0].token_logprobs
    shown = b"".join(bytes(each.bytes) for each in told)
    assert shown.decode("utf-8", "replace") == demo.tokenizer.decode(
        output.outputs[0].token_ids, skip_special_tokens=False
    )


@pytest.mark.parametrize("preset", ["reference", "fast"])
@pytest.mark.parametrize("rule", [{}, {"regex": "[a-c]{2}x"}, {"stop": ["b"]}])
def test_an_openai_object_holds_the_tokens_of_the_text(speaker, preset, rule):
    params = SamplingParams(gen_length=16, preset=preset, logprobs=2, seed=1, **rule)
    for prompt in ("abc", "z", {"prompt": "abc", "pinned": {1: speaker.tokenizer.encode("q")[0]}}):
        if rule.get("regex") and not isinstance(prompt, str):
            continue
        (output,) = speaker.generate(prompt, params)
        completion = output.outputs[0]
        content = completion.openai_logprobs()["content"]
        spelt = b"".join(bytes(entry["bytes"]) for entry in content).decode()
        assert spelt.startswith(completion.text)
        assert len(content) <= len(completion.token_ids)
        for entry in content:
            assert list(entry) == ["token", "logprob", "bytes", "top_logprobs"]
            assert isinstance(entry["logprob"], float)
            assert all(list(top) == ["token", "logprob", "bytes"] for top in entry["top_logprobs"])
    assert speaker.generate("abc", SamplingParams(gen_length=4))[0].outputs[0].openai_logprobs() is None
