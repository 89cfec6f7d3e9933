"""regex and choice: whatever the model wants, the text is accepted; what cannot fit is refused at once."""

import json
import re
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llada_rt import Engine, Hole, InvalidRequestError, RequestTooLargeError, SamplingParams, TokenizerError
from llada_rt.planning.caches import FIXED_BLOCK_CACHES
from llada_rt.planning.constraint import Constraint
from llada_rt.planning.grammar import Grammar
from tests.data.make_goldens import IDS
from tests.engine.conftest import check_idle
from tests.tolerance import CONFIDENCE

REGEXES = ["[0-9]{2,6}", "(yes|no)", r"\d+-\d+", "[a-c]*x?", r"床[^a-z]{1,4}", ".{1,12}", "(ab|ba){3}", r"\w+( \w+)?"]
OPTIONS = [
    {},
    {"threshold": 0.02},
    {"temperature": 1.5, "seed": 4},
    {"cfg_scale": 1.0, "cache": "dual"},
    {"logits_eos_inf": True},
    {"preset": "reference"},
]
BASE = SamplingParams(preset="quality", gen_length=12, block_length=4, return_tokens=True)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("regex", REGEXES)
def test_the_text_matches(speaker: Engine, regex, options):
    texts = set()
    for prompt in ("abc", "床前明月光", "z9"):
        (output,) = speaker.generate(prompt, BASE.replace(regex=regex, **options))
        assert re.fullmatch(regex, output.text), output.text
        completion = output.outputs[0]
        assert completion.diffusion.nfe <= 12
        assert IDS.mask not in completion.token_ids
        texts.add(output.text)
    assert texts


@pytest.mark.parametrize("cache", sorted(FIXED_BLOCK_CACHES))
def test_holes_and_free_text_in_one_template(speaker: Engine, cache):
    segments = [
        "ab",
        Hole(6, regex="[0-9]{2}(-[0-9])?"),
        "c",
        3,
        {"choice": ["no", "yes"]},
        "d",
        {"hole": 2, "regex": "x|yy"},
    ]
    assert json.loads(json.dumps(segments[4]))
    completion = speaker.infill(segments, BASE.replace(cache=cache)).outputs[0]
    number, free, answer, letter = (hole.text for hole in completion.holes)
    assert re.fullmatch("[0-9]{2}(-[0-9])?", number)
    assert answer in ("no", "yes")
    assert letter in ("x", "yy")
    for hole in completion.holes:
        assert speaker.tokenizer.decode(hole.token_ids, skip_special_tokens=False) == hole.text or hole.text == free
    assert len(completion.holes[1].token_ids) == 3
    assert completion.text == f"ab{number}c{free}{answer}d{letter}"


def test_a_choice_of_single_tokens_is_the_best_of_them(speaker: Engine):
    choice = ["a", "k", "0", "月", "!"]
    ids = [speaker.tokenizer.encode(text)[0] for text in choice]
    for prompt in ("abc", "床前", "0", "zzzzz"):
        logits = speaker.forward([*speaker.tokenizer.encode(prompt), IDS.mask])[-1].astype(np.float64)
        (output,) = speaker.generate(prompt, BASE.replace(gen_length=1, block_length=1, choice=choice))
        assert output.text == choice[int(np.argmax(logits[ids]))]
        info = output.outputs[0].tokens[0]
        probability = np.exp(logits[info.id] - logits.max()) / np.exp(logits - logits.max()).sum()
        assert info.confidence == pytest.approx(probability, rel=CONFIDENCE)


def test_what_is_forced_costs_nothing(speaker: Engine):
    (output,) = speaker.generate("abc", BASE.replace(choice=["forced"]))
    assert output.text == "forced"
    assert output.outputs[0].diffusion.nfe == 0
    (output,) = speaker.generate("abc", BASE.replace(regex="forced[01]text"))
    assert output.outputs[0].diffusion.nfe == 1


def test_a_threshold_writes_more_at_once():
    question = {"messages": [{"role": "user", "content": "白日依山尽的下一句是什么？ 直接输出句子即可。"}]}
    params = SamplingParams(preset="quality", gen_length=8, block_length=8, regex="[一-龟]{5}")
    with Engine(compute_type="float32", threads=1) as demo:
        slow, fast = (demo.generate(question, params.replace(threshold=t))[0] for t in (None, 0.9))
        assert slow.text == fast.text == "黄河入海流"
        assert slow.outputs[0].diffusion.nfe == 5
        assert fast.outputs[0].diffusion.nfe < 5
        # The answer is taken from these, however much the model would rather say something else.
        others = demo.generate(question, params.replace(regex=None, choice=["疑是地上霜", "处处闻啼鸟"]))[0]
        assert others.text in ("疑是地上霜", "处处闻啼鸟")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    regexes=st.lists(st.sampled_from([None, *REGEXES]), min_size=2, max_size=5),
    cache=st.sampled_from(sorted(FIXED_BLOCK_CACHES)),
    temperature=st.sampled_from([0.0, 0.8]),
)
def test_neighbours_are_not_felt(speaker: Engine, regexes, cache, temperature):
    params = [
        BASE.replace(regex=regex, cache=cache, temperature=temperature, seed=index)
        for index, regex in enumerate(regexes)
    ]
    prompts = ["abcdefgh"[: index + 1] for index in range(len(regexes))]
    together = speaker.generate(prompts, params)
    for prompt, one, output in zip(prompts, params, together, strict=True):
        alone = speaker.generate(prompt, one)[0]
        assert output.outputs[0].tokens == alone.outputs[0].tokens
        assert output.text == alone.text


def test_constrained_and_free_requests_share_forwards(speaker: Engine):
    """Eight together take as many calls as the longest of them alone."""
    params = [BASE.replace(regex="[a-z]{6}"), BASE.replace(steps=12)] * 4
    before = speaker.stats()
    outputs = speaker.generate([f"{index}ab" for index in range(8)], params)
    after = speaker.stats()
    assert after.num_forwards - before.num_forwards == max(o.outputs[0].diffusion.nfe for o in outputs) == 12
    assert after.num_committed - before.num_committed == 8 * 12


@pytest.mark.parametrize("mode", ["denoise", "append"])
def test_it_streams(speaker: Engine, mode):
    params = BASE.replace(regex=r"\d+-\d+", seed=3)
    expected = speaker.generate("abc", params)[0].text
    assert "".join(event.text_delta for event in speaker.stream("abc", params, mode=mode)) == expected
    events = speaker.stream("abc", params, mode=mode)
    next(events)
    events.close()
    check_idle(speaker)


def test_samples_and_audit(speaker: Engine):
    params = BASE.replace(regex="[a-z]{4}", n=3, temperature=1.5, seed=1, audit=1, cache="dual")
    output = speaker.generate("abc", params)[0]
    texts = [completion.text for completion in output.outputs]
    assert all(re.fullmatch("[a-z]{4}", text) for text in texts)
    assert len(set(texts)) > 1
    template = ["ab", 4, Hole(3, regex="[0-9]+"), "c", 4]
    plain, audited = (speaker.infill(template, BASE.replace(cache="dual", audit=m)).outputs[0] for m in (0, 1))
    assert plain.token_ids == audited.token_ids
    assert audited.audit.num_steps > 0


@pytest.mark.parametrize("threshold", [None, 0.001])
@pytest.mark.parametrize("regex", ["(.?){4000}", "(.*){3000}", "(x|(.?){2000}y)", "(?:[^a]?[^b]?[^c]?[^d]?){200}"])
def test_a_hostile_expression_holds_nobody_up(regex, threshold):
    """Its steps are as short as others, its deadline holds, and its neighbour is answered."""
    params = SamplingParams(preset="quality", gen_length=64, regex=regex, threshold=threshold, timeout_s=1)
    with Engine(threads=1) as demo:
        demo.generate("床", params.replace(regex=".", threshold=None))  # the alphabet is made
        stepper, longest = demo._dispatcher._stepper, 0.0
        step = stepper.step

        def timed():
            nonlocal longest
            began = time.thread_time()
            step()
            longest = max(longest, time.thread_time() - began)

        stepper.step = timed
        began = time.thread_time()
        outputs = demo.generate(["床", "前"], [params, params.replace(regex=None, gen_length=8)])
        assert time.thread_time() - began < 3
        assert longest < 0.6, longest
        assert len(outputs) == 2


def test_an_allowance_that_does_not_reach_ends_its_request_only(speaker: Engine, monkeypatch):
    allow = Grammar.allow
    monkeypatch.setattr(Grammar, "allow", lambda grammar: allow(grammar, 150))
    others = BASE.replace(regex=None)
    results = []
    for event in speaker.stream("abc", BASE.replace(regex="[0-9]{2}")):
        results.append(event)
    assert results[-1].finished
    with pytest.raises(RequestTooLargeError, match="within 150 steps"):
        speaker.generate("abc", BASE.replace(regex="(.?){200}"))
    assert speaker.generate("abc", others)


def test_many_slow_constraints_share_a_step_by_time(speaker: Engine, monkeypatch):
    """None is left out for ever, and a step ends in time for the deadlines and callers of others."""
    advance, turns = Constraint.advance, []

    def slow(constraint, tokens):
        time.sleep(0.12)
        turns.append(constraint)
        return advance(constraint, tokens)

    monkeypatch.setattr(Constraint, "advance", slow)
    stepper, most = speaker._dispatcher._stepper, 0
    whole = stepper.step

    def counted():
        nonlocal most
        before = len(turns)
        whole()
        most = max(most, len(turns) - before)

    monkeypatch.setattr(stepper, "step", counted)
    params = BASE.replace(gen_length=3, block_length=3, regex="[a-z]{3}")
    outputs = speaker.generate(["abc"] * 6, params)
    assert all(re.fullmatch("[a-z]{3}", output.text) for output in outputs)
    assert most == 1  # one of six takes longer than a call may
    assert {turns[:6].count(each) for each in turns[:6]} == {1}


REFUSED = [
    ({"choice": ["a" * 5000]}, "at most 4096 characters in all, got 5000"),
    ({"regex": "a{13}"}, "takes 13 tokens"),
    ({"choice": ["much too long for it"]}, "takes 20 tokens"),
    ({"regex": "é+"}, "can write no text"),
    ({"regex": "(a"}, "missing"),
    ({"regex": "^a"}, "anchors"),
    ({"regex": ""}, "regex"),
    ({"regex": "a", "choice": ["b"]}, "exclude"),
    ({"regex": 3}, "regex"),
    ({"choice": "ab"}, "choice"),
    ({"choice": [""]}, "choice"),
    ({"choice": [3]}, "choice"),
    ({"regex": "a", "block_order": "confidence"}, "block_order"),
]


@pytest.mark.parametrize(("options", "words"), REFUSED, ids=str)
def test_refused_at_once(speaker: Engine, options, words, monkeypatch):
    monkeypatch.setattr(speaker._runner, "open", None)
    with pytest.raises(InvalidRequestError, match=words) as caught:
        speaker.generate("abc", BASE.replace(**options))
    if words.startswith("takes"):
        assert "larger gen_length" in caught.value.hint


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        (["a", Hole(3, regex="[0-9]{4}")], "takes 4 tokens"),
        (["a", {"hole": [2, 4], "regex": "a+"}], r"segments\[1\]: .*one length"),
        (["a", {"regex": "a+"}], r"segments\[1\]: .*length"),
        (["a", {"hole": 3, "regex": "a+", "choice": ["a"]}], r"segments\[1\]: regex"),
        (["a", {"hole": 3, "choice": []}, "b", {"hole": 2, "choice": 3}], r"segments\[3\]: choice"),
    ],
    ids=str,
)
def test_bad_holes(speaker: Engine, segments, words):
    with pytest.raises(InvalidRequestError, match=words):
        speaker.infill(segments, BASE)


def test_it_needs_a_tokenizer_and_a_generation(speaker: Engine, engine: Engine):
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        engine.generate([1, 2], BASE.replace(regex="a"))
    with pytest.raises(InvalidRequestError, match="regex: expected a generation, got a template"):
        speaker.infill(["a", 3], BASE.replace(regex="a"))
    with pytest.raises(InvalidRequestError, match="written alone"):
        speaker.generate({"prompt": "a", "pinned": {1: 3}}, BASE.replace(regex="a"))
