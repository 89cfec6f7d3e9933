"""Bad requests: each a typed error before any work that names what was wrong; the engine answers the next one."""

import math

import numpy as np
import pytest

from llada_rt import (
    ChatTemplateError,
    ContextLengthError,
    Engine,
    InvalidRequestError,
    LladaRtError,
    SamplingParams,
    TokenizerError,
)
from tests.data.make_goldens import CHECKPOINT, IDS
from tests.engine.models import CONTEXT, write_folder

SHORT = SamplingParams(gen_length=8)
NOT_REFERENCE = SamplingParams(gen_length=8, preset="quality")


@pytest.fixture(autouse=True)
def the_next_request_is_answered(engine: Engine):
    expected = engine.generate([[5, 6]], SHORT)[0].outputs[0].token_ids
    yield
    assert engine.generate([[5, 6]], SHORT)[0].outputs[0].token_ids == expected


BAD_PROMPTS = [
    ([], InvalidRequestError, ["at least one", "empty"]),
    ([[]], InvalidRequestError, ["prompt is empty"]),
    ({"prompt_token_ids": []}, InvalidRequestError, ["prompt is empty"]),
    ([160], InvalidRequestError, ["[0]", "0 to 159", "160"]),
    ([3, -1], InvalidRequestError, ["[1]", "0 to 159", "-1"]),
    ([2**31], InvalidRequestError, [str(2**31)]),
    ([2**80], InvalidRequestError, ["0 to 159"]),
    ([1, 2.5], InvalidRequestError, ["[1]", "2.5"]),
    ([1, True], InvalidRequestError, ["[1]", "True"]),
    ([1, "a"], InvalidRequestError, ["[1]", "'a'"]),
    ([1, None], InvalidRequestError, ["[1]", "None"]),
    ([1, [2]], InvalidRequestError, ["[1]", "list"]),
    ([[1, [2]]], InvalidRequestError, ["[1]", "list"]),
    (None, InvalidRequestError, ["None"]),
    (3, InvalidRequestError, ["3"]),
    (b"abc", InvalidRequestError, ["bytes"]),
    ({1, 2}, InvalidRequestError, ["set"]),
    ({}, InvalidRequestError, ["nothing"]),
    ({"ids": [1]}, InvalidRequestError, ["ids"]),
    ({"prompt": "a", "prompt_token_ids": [1]}, InvalidRequestError, ["prompt, prompt_token_ids"]),
    ({"prompt": 3}, InvalidRequestError, ["int"]),
    (np.array([1.5]), InvalidRequestError, ["1.5"]),
    (np.zeros((1, 1, 1), int), InvalidRequestError, ["list"]),
    ([1] * 121, ContextLengthError, ["121", "8", "129", str(CONTEXT)]),
    ([1] * 100_000, ContextLengthError, ["100000", str(CONTEXT)]),
    ("text", TokenizerError, ["tokenizer.json"]),
    ({"messages": [{"role": "user", "content": "a"}]}, TokenizerError, ["tokenizer.json"]),
    ({"segments": []}, InvalidRequestError, ["segments", "empty"]),
    ({"segments": [[1, 2]]}, InvalidRequestError, ["at least one hole"]),
    ({"segments": [0]}, InvalidRequestError, ["segments[0]", "0"]),
    ({"segments": [[1], -4]}, InvalidRequestError, ["segments[1]", "-4"]),
    ({"segments": [True]}, InvalidRequestError, ["segments[0]", "True"]),
    ({"segments": [1.5]}, InvalidRequestError, ["segments[0]", "1.5"]),
    ({"segments": [None, 3]}, InvalidRequestError, ["segments[0]", "None"]),
    ({"segments": [[160], 3]}, InvalidRequestError, ["segments[0][0]", "160"]),
    ({"segments": [[IDS.mask], 3]}, InvalidRequestError, ["segments[0]", "mask"]),
    ({"segments": [2**31]}, ContextLengthError, [str(2**31), str(CONTEXT)]),
    ({"segments": [[1] * 100, 29]}, ContextLengthError, ["129", str(CONTEXT)]),
    ({"segments": "abc"}, InvalidRequestError, ["segments", "'abc'"]),
    ({"prompt_token_ids": [IDS.mask], "segments": [3]}, InvalidRequestError, ["mask", "infill"]),
    ({"prompt_token_ids": [1] * 120, "segments": [9]}, ContextLengthError, ["129", str(CONTEXT)]),
]


@pytest.mark.parametrize(("prompt", "kind", "words"), BAD_PROMPTS, ids=[str(bad[0])[:40] for bad in BAD_PROMPTS])
def test_bad_prompt(engine: Engine, prompt, kind, words):
    with pytest.raises(kind) as caught:
        engine.generate(prompt, SHORT)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert len(message) < 500
    if (
        isinstance(prompt, (dict, list))
        and prompt
        and not isinstance(prompt[0] if isinstance(prompt, list) else 1, list)
    ):
        with pytest.raises(LladaRtError):
            engine.stream(prompt, SHORT)


def test_mask_in_the_prompt_is_refused_outside_the_reference(engine: Engine):
    with pytest.raises(InvalidRequestError, match="mask token 156 at position 1"):
        engine.generate([3, IDS.mask], NOT_REFERENCE)
    # The published loop fills it when it can.
    assert engine.generate([3, IDS.mask], SHORT)


def test_one_bad_request_and_none_is_run(engine: Engine, monkeypatch):
    monkeypatch.setattr(engine._runner, "open", None)
    with pytest.raises(InvalidRequestError, match=r"^prompts\[2\]: prompt\[1\]: expected a token id"):
        engine.generate([[1], [2], [3, 999], [4]], SHORT)
    with pytest.raises(ContextLengthError, match=r"^prompts\[1\]: "):
        engine.generate([[1], [2] * 127], SHORT)


BAD_PARAMS = [{"gen_length": 8}, "fast", 3, [SHORT, None], [], [SHORT, SHORT]]


@pytest.mark.parametrize("params", BAD_PARAMS, ids=str)
def test_bad_params(engine: Engine, params):
    with pytest.raises(InvalidRequestError, match="params"):
        engine.generate([[1]], params)


def test_gen_length_beyond_the_context(engine: Engine):
    with pytest.raises(ContextLengthError, match=r"1 tokens given \+ 128 of gen_length = 129 .* 128"):
        engine.generate([1], SamplingParams(gen_length=128))
    with pytest.raises(ContextLengthError):
        engine.generate([1], SamplingParams(gen_length=2**31 - 1))
    (output,) = engine.generate([1], SamplingParams(gen_length=127, steps=1))
    assert len(output.outputs[0].token_ids) == 127


def test_options_that_need_an_end_token():
    folder_options = {"compute_type": "float32", "threads": 1}
    with Engine(CHECKPOINT, **folder_options) as engine:
        assert (engine.eos_token_id, engine.eot_token_id) == (IDS.eos, None)
        engine.generate([1], SHORT.replace(logits_eos_inf=True, confidence_eos_eot_inf=True))


def test_options_that_need_an_end_token_where_there_is_none(tmp_path):
    folder = write_folder(tmp_path / "m", tokenizer=False, config={"eos_token_id": None, "pad_token_id": None})
    with Engine(folder, threads=1) as engine:
        for name in ("logits_eos_inf", "confidence_eos_eot_inf"):
            with pytest.raises(InvalidRequestError, match=f"{name} needs"):
                engine.generate([1], SHORT.replace(**{name: True}))
        assert engine.generate([1], NOT_REFERENCE)


BAD_MESSAGES = [
    [],
    None,
    "hi",
    {"role": "user", "content": "hi"},
    ["hi"],
    [{}],
    [{"role": "user"}],
    [{"content": "hi"}],
    [{"role": "robot", "content": "hi"}],
    [{"role": "user", "content": None}],
    [{"role": "user", "content": ["hi"]}],
    [{"role": "user", "content": "hi", "nome": "x"}],
    [{"role": "user", "content": "hi", "name": 3}],
    [{"role": ["user"], "content": "hi"}],
    [{"role": "assistant", "content": "ho"}],
    [{"role": "user", "content": []}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
    [{"role": "user", "content": [{"type": "text", "text": 3}]}],
    [{"role": "user", "content": [{"type": "text", "text": "a", "more": 1}]}],
    [{"role": "user", "content": [{"type": ["text"], "text": "a"}]}],
    [{"role": "system", "content": "hi"}],
]


@pytest.mark.parametrize("messages", BAD_MESSAGES, ids=str)
def test_bad_messages(speaker: Engine, messages):
    with pytest.raises(InvalidRequestError, match="messages"):
        speaker.chat(messages, SHORT)
    assert speaker.chat([{"role": "user", "content": "hi"}], SHORT)


def test_bad_text(speaker: Engine):
    with pytest.raises(InvalidRequestError, match="prompt is empty"):
        speaker.generate("", SHORT)
    with pytest.raises(InvalidRequestError, match=r"prompts\[1\]: the prompt is empty"):
        speaker.generate(["a", ""], SHORT)
    with pytest.raises(InvalidRequestError, match="cannot be encoded"):
        speaker.generate("\ud800", SHORT)
    with pytest.raises(InvalidRequestError, match="mask token"):
        speaker.generate("a<|mdm_mask|>b", NOT_REFERENCE)
    with pytest.raises(InvalidRequestError, match="mask token"):
        speaker.infill(["a<|mdm_mask|>", 3], SHORT)
    with pytest.raises(ContextLengthError, match="1000"):
        speaker.generate("a" * 1000, SHORT)
    assert speaker.generate("a", SHORT)


def test_no_chat_template(tmp_path):
    with Engine(write_folder(tmp_path / "m", template=None), threads=1) as engine:
        assert not engine.has_chat_template
        with pytest.raises(ChatTemplateError, match="no chat template"):
            engine.chat([{"role": "user", "content": "hi"}], SHORT)


BAD_FORWARDS = [[], None, [160], [-1], [1.5], [[1]], [1] * (CONTEXT + 1), "abc", 5]


@pytest.mark.parametrize("ids", BAD_FORWARDS, ids=lambda ids: str(ids)[:20])
def test_bad_forward(engine: Engine, ids):
    with pytest.raises((InvalidRequestError, TokenizerError)):
        engine.forward(ids)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mc_num": 0}, "mc_num"),
        ({"mc_num": 1.5}, "mc_num"),
        ({"mc_num": 10**9}, "mc_num"),
        ({"seed": -1}, "seed"),
        ({"seed": "3"}, "seed"),
        ({"cfg_scale": -1}, "cfg_scale"),
        ({"cfg_scale": math.nan}, "cfg_scale"),
        ({"noise": []}, "noise"),
        ({"noise": [{"tokens": [1, 2, 3]}]}, "noise"),
        ({"noise": [{"tokens": [1, 2], "mask_ratio": 0.5}]}, "3 token ids"),
        ({"noise": [{"tokens": [[1], 2, 3], "mask_ratio": 0.5}]}, "3 token ids"),
        (
            {"noise": [{"tokens": [1, 2, 4], "mask_ratio": 0.5}]},
            r"noise\[0\].tokens\[2\]: expected 3 or the mask, got 4",
        ),
        ({"noise": [{"tokens": [IDS.mask, 2, 3], "mask_ratio": 0.5}]}, r"tokens\[0\]: expected 1, got 156"),
        ({"noise": [{"tokens": [1, 2, 2**40], "mask_ratio": 0.5}]}, "expected 3"),
        ({"noise": [{"tokens": [1, 2, 3], "mask_ratio": 0.0}]}, "mask_ratio"),
        ({"noise": [{"tokens": [1, 2, 3], "mask_ratio": math.nan}]}, "mask_ratio"),
        ({"noise": [{"tokens": [1, 2, 3], "mask_ratio": 1.5}]}, "mask_ratio"),
    ],
)
def test_bad_score(engine: Engine, options, words):
    with pytest.raises(InvalidRequestError, match=words):
        engine.score([1], [2, 3], **options)


@pytest.mark.parametrize(
    ("prompt", "answer", "words"),
    [
        ([1], [], "answer"),
        ([1], [160], "160"),
        ([160], [1], "160"),
        ([1], [IDS.mask], "mask"),
        ([IDS.mask], [1], "mask"),
        ([1] * 100, [1] * 29, "129"),
    ],
)
def test_bad_score_texts(engine: Engine, prompt, answer, words):
    with pytest.raises(InvalidRequestError, match=words):
        engine.score(prompt, answer)


@pytest.mark.parametrize("temperature", [1e-300, 1e300])
def test_extreme_temperatures_are_numbers_like_others(engine: Engine, temperature):
    params = NOT_REFERENCE.replace(temperature=temperature, seed=3, return_tokens=True)
    (output,) = engine.generate([[1, 2]], params)
    assert all(0 <= token.confidence <= 1 for token in output.outputs[0].tokens)


def test_one_bad_prompt_among_very_many(engine: Engine, monkeypatch):
    monkeypatch.setattr(engine._runner, "open", None)
    with pytest.raises(InvalidRequestError, match=r"^prompts\[9999\]: "):
        engine.generate([[1]] * 9999 + [[160]], SHORT)


@pytest.mark.parametrize("prompt", [[IDS.eos], [IDS.eot, IDS.eos], [0], [155] * 120])
def test_odd_prompts_are_answered(engine: Engine, prompt):
    assert engine.generate([prompt], NOT_REFERENCE)[0].prompt_token_ids == prompt


def test_an_answer_that_ends_at_once_is_empty(engine: Engine):
    """EOS in the first position: no text, and it says stop."""
    first = engine.generate([[1, 2]], SHORT)[0].outputs[0].token_ids[0]
    with Engine(CHECKPOINT, compute_type="float32", threads=1, eos_token_id=first) as other:
        (output,) = other.generate([[1, 2]], NOT_REFERENCE)
        completion = output.outputs[0]
        assert (completion.text, completion.token_ids, completion.finish_reason) == ("", [], "stop")
        assert (completion.diffusion.emitted_tokens, completion.diffusion.padding_tokens) == (0, 8)
        (event,) = other.stream([1, 2], NOT_REFERENCE, mode="append")
        assert (event.text, event.finished) == ("", True)


def test_an_engine_used_from_its_own_callbacks(engine: Engine):
    """Between two events of a stream anything may be asked, also its own end."""
    params = NOT_REFERENCE.replace(gen_length=100, eos_early_stop=False)
    for event in engine.stream([1, 2], params, request_id="outer"):
        if event.step == 0:
            engine.generate([[3]], SHORT)
            engine.score([1], [2], mc_num=2)
            engine.forward([1])
            assert engine.abort("outer")
    assert event.output.outputs[0].finish_reason == "abort"


def test_text_that_the_context_can_never_hold_is_not_even_encoded(speaker: Engine, monkeypatch):
    """Encoding takes some microseconds and 300 bytes a character; what is too long by far is known without."""

    def encode(*args, **kwargs):
        raise AssertionError("encoded")

    huge = "a" * (CONTEXT * 32 + 1)
    calls = [
        lambda: speaker.generate(huge),
        lambda: speaker.generate({"prompt": huge}),
        lambda: speaker.generate({"messages": [{"role": "user", "content": huge}]}),
        lambda: speaker.chat([{"role": "user", "content": huge[:4000]}, {"role": "user", "content": huge[:4000]}]),
        lambda: speaker.stream(huge),
        lambda: speaker.score(huge, [1]),
        lambda: speaker.score([1], huge),
        lambda: speaker.infill([huge, 3]),
        lambda: speaker.fill_middle([1], huge),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(speaker.tokenizer, "encode", encode)
        patch.setattr(speaker.tokenizer, "render_chat", encode)
        for call in calls:
            with pytest.raises(ContextLengthError, match="characters are more than the 4096 that the 128 tokens"):
                call()
        with pytest.raises(InvalidRequestError, match="at most 4096 characters in all"):
            speaker.infill(["a", {"choice": [huge]}])
    with pytest.raises(ContextLengthError, match="4096 tokens are more than the 128"):
        speaker.generate(huge[:-1])
