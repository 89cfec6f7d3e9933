"""/v1/infill, /v1/edit, /v1/score, /tokenize, /detokenize, /apply_template: what the engine says, in JSON."""

import json
import re

import pytest

from llada_rt import Hole, SamplingParams
from tests.server.running import events_of
from tests.server.test_gate import fault

SEED = {"temperature": 1.0, "seed": 7}


def choices_of(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"]


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        ({"segments": ["床", 2, "光"]}, {"segments": ["床", 2, "光"]}),
        ({"segments": [[5, 6], 2]}, {"segments": [[5, 6], 2]}),
        ({"segments": ["a", {"hole": [1, 3]}, "b"]}, {"segments": ["a", Hole((1, 3)), "b"]}),
        ({"segments": ["a", {"hole": 4, "regex": "[0-9]{2}"}]}, {"segments": ["a", Hole(4, regex="[0-9]{2}")]}),
        ({"segments": [{"choice": ["明月", "b"]}, "a"]}, {"segments": [Hole(choice=("明月", "b")), "a"]}),
        ({"segments": ["a", 2], "open_end": True, "gen_length": 6}, {"segments": ["a", 2], "open_end": True}),
        ({"prompt": "望", "segments": ["a", 2]}, {"prompt": "望", "segments": ["a", 2]}),
        ({"prompt": [1, 2], "segments": ["a", 2]}, {"prompt_token_ids": [1, 2], "segments": ["a", 2]}),
        ({"prompt": "望", "suffix": "b", "gen_length": 3}, {"prompt": "望", "suffix": "b"}),
        ({"prompt": "望", "pinned": {"0": 5, "2": 6}, "gen_length": 6}, {"prompt": "望", "pinned": {0: 5, 2: 6}}),
        (
            {"messages": [{"role": "user", "content": "望"}], "segments": ["a", 2]},
            {"messages": [{"role": "user", "content": "望"}], "segments": ["a", 2]},
        ),
    ],
    ids=str,
)
def test_infill_is_the_engines(server, ask, body, prompt):
    body = {"gen_length": 12} | body | SEED | {"n": 2}
    (output,) = server.engine.generate(prompt, SamplingParams(gen_length=body["gen_length"], n=2, **SEED))
    choices = choices_of(ask.post("/v1/infill", json=body))
    assert [choice["text"] for choice in choices] == [each.text for each in output.outputs]
    for choice, each in zip(choices, output.outputs, strict=True):
        assert choice["holes"] == [hole.to_dict() for hole in each.holes or []]
        assert "edits" not in choice


def test_what_an_infill_cannot_be(ask):
    for body, param in (
        ({}, "prompt"),
        ({"segments": []}, "segments"),
        ({"segments": ["a"]}, "segments"),
        ({"segments": ["a", 0]}, "segments"),
        ({"segments": ["a", {"hole": 2, "rexeg": "a"}]}, "segments"),
        ({"segments": ["a", 10**10]}, "segments"),
        ({"segments": ["a", 2], "suffix": "b"}, "prompt"),
        ({"segments": ["a", 2], "prompt": "a", "messages": []}, "messages"),
        ({"segments": ["a", 2], "prompt": "a", "chat_template_kwargs": {}}, "chat_template_kwargs"),
        ({"segments": ["a", 2], "stop": ["b"]}, "stop"),
        ({"segments": ["a", {"hole": [1, 3]}], "stream": True}, "segments"),
        ({"segments": ["a", {"hole": 2, "regex": "a{9}"}]}, "segments"),
        ({"segments": ["a", {"hole": [1, 99]}]}, "segments"),
        ({"prompt": "a", "pinned": {"99": 1}}, "pinned"),
    ):
        answer = ask.post("/v1/infill", json=body)
        assert fault(answer, 400, answer.json()["error"]["code"])["param"] == param, body


def test_a_stream_of_an_infill_shows_the_fixed_text(server, ask):
    body = {"segments": ["床", 2, "光"], "stream": True, "stream_mode": "denoise"}
    events = events_of(ask.post("/v1/infill", json=body).text)
    assert [event["object"] for event in events[:-1]] == ["infill.chunk"] * (len(events) - 1)
    canvas = events[0]["diffusion"]["canvas"]
    assert [each and each["text"] for each in canvas] == ["床", None, None, "光"]
    (output,) = server.engine.generate({"segments": ["床", 2, "光"]})
    last = events[-2]["choices"][0]
    assert last["holes"] == [hole.to_dict() for hole in output.outputs[0].holes]
    positions = [each["position"] for event in events[:-1] for each in event["diffusion"]["committed"]]
    assert sorted(positions) == [1, 2]


# ---------------------------------------------------------------- edit


def test_an_edit_rewrites_only_its_spans(server, ask):
    text = "床前明月光 疑是地上霜"
    spans = [{"start": 1, "end": 3}, {"start": 6, "end": 8, "length": 3}, {"start": 11, "end": 11, "length": 1}]
    (choice,) = choices_of(ask.post("/v1/edit", json={"text": text, "spans": spans} | SEED))
    segments = ["床", 2, "月光 ", 3, "地上霜", 1]
    (output,) = server.engine.generate({"segments": segments}, SamplingParams(**SEED))
    assert choice["text"] == output.text
    holes = [hole.text for hole in output.outputs[0].holes]
    before = [text[span["start"] : span["end"]] for span in spans]
    assert choice["edits"] == [
        {"start": span["start"], "end": span["end"], "before": old, "after": new}
        for span, old, new in zip(spans, before, holes, strict=True)
    ]
    rebuilt, at = "", 0
    for edit in choice["edits"]:
        rebuilt += text[at : edit["start"]] + edit["after"]
        at = edit["end"]
    assert rebuilt + text[at:] == choice["text"]


def test_rules_of_spans(ask):
    body = {"text": "a12b", "spans": [{"start": 1, "end": 3, "regex": "[7-9]{2}"}], "prompt": "床"}
    (choice,) = choices_of(ask.post("/v1/edit", json=body))
    assert re.fullmatch("a[7-9]{2}b", choice["text"])
    body = {"text": "是", "spans": [{"start": 0, "end": 1, "choice": ["上霜", "地"]}]}
    (choice,) = choices_of(ask.post("/v1/edit", json=body))
    assert choice["text"] in ("上霜", "地")
    body = {
        "text": "ab",
        "spans": [{"start": 1, "end": 2, "length": [1, 3]}],
        "messages": [{"role": "user", "content": "a"}],
    }
    (choice,) = choices_of(ask.post("/v1/edit", json=body))
    assert 1 <= len(choice["edits"][0]["after"]) <= 3


def test_a_text_that_the_tokenizer_would_change_is_not_edited(ask):
    """It would be another text outside of the spans, too."""
    told = fault(ask.post("/v1/edit", json={"text": "a，b", "spans": [{"start": 2, "end": 3}]}), 400, "invalid_request")
    assert told["param"] == "text"
    assert ask.post("/v1/edit", json={"text": "a，b", "spans": [{"start": 1, "end": 2}]}).status_code == 200


def test_an_edit_is_streamed(ask):
    body = {"text": "abcdef", "spans": [{"start": 2, "end": 4}]}
    (whole,) = choices_of(ask.post("/v1/edit", json=body))
    events = events_of(ask.post("/v1/edit", json=body | {"stream": True}).text)
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == whole["text"]
    assert events[-2]["choices"][0]["edits"] == whole["edits"]


@pytest.mark.parametrize(
    ("spans", "param"),
    [
        ([], "spans"),
        ([{"start": 0, "end": 0}], "spans"),
        ([{"start": 2, "end": 1}], "spans"),
        ([{"start": 0, "end": 5}], "spans"),
        ([{"start": -1, "end": 1}], "spans.0.start"),
        ([{"start": 0, "end": 2}, {"start": 1, "end": 3}], "spans"),
        ([{"start": 2, "end": 3}, {"start": 0, "end": 1}], "spans"),
        ([{"start": 0}], "spans.0.end"),
        ([{"start": 0, "end": 1, "lenght": 2}], "spans.0.lenght"),
        ([{"start": 0, "end": 1, "length": [3, 1]}], "segments"),
    ],
    ids=str,
)
def test_what_spans_cannot_be(ask, spans, param):
    answer = ask.post("/v1/edit", json={"text": "abc", "spans": spans})
    assert fault(answer, 400, answer.json()["error"]["code"])["param"] == param


# ---------------------------------------------------------------- score and texts


@pytest.mark.parametrize("ids", [False, True])
def test_a_score_is_the_engines(server, ask, ids):
    prompt, answer = ([5, 6], [7, 8]) if ids else ("床前", "明月")
    told = ask.post("/v1/score", json={"prompt": prompt, "answer": answer, "mc_num": 8, "seed": 3}).json()
    expected = server.engine.score(prompt, answer, mc_num=8, seed=3)
    assert (told["log_likelihood"], told["standard_error"], told["num_samples"]) == (*expected, 8)
    guided = ask.post("/v1/score", json={"prompt": prompt, "answer": answer, "mc_num": 8, "cfg_scale": 1}).json()
    assert guided["log_likelihood"] == server.engine.score(prompt, answer, mc_num=8, cfg_scale=1).log_likelihood
    assert (
        ask.post("/v1/score", json={"prompt": prompt, "answer": answer, "mc_num": 1}).json()["standard_error"] is None
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "a"}, "answer"),
        ({"prompt": "a", "answer": ""}, "answer"),
        ({"prompt": "a", "answer": "b", "mc_num": 0}, "mc_num"),
        ({"prompt": "a", "answer": "b", "mc_num": 1025}, "mc_num"),
        ({"prompt": "a", "answer": "b", "cfg_scale": -1}, "cfg_scale"),
        ({"prompt": "a", "answer": "b" * 128}, "prompt"),
        ({"prompt": "a", "answer": "b", "temperature": 1}, "temperature"),
    ],
    ids=str,
)
def test_what_a_score_cannot_be(ask, body, param):
    answer = ask.post("/v1/score", json=body)
    assert fault(answer, 400, answer.json()["error"]["code"])["param"] == param


def test_tokenize_and_back(server, ask):
    told = ask.post("/tokenize", json={"prompt": "床a<|eot_id|>", "return_token_strs": True}).json()
    assert told["tokens"] == server.engine.encode("床a<|eot_id|>")
    assert told["count"] == len(told["tokens"])
    assert told["max_model_len"] == 128
    assert told["token_strs"] == ["床", "a", "<|eot_id|>"]
    back = {"tokens": told["tokens"]}
    assert ask.post("/detokenize", json=back).json() == {"prompt": "床a"}
    assert ask.post("/detokenize", json=back | {"skip_special_tokens": False}).json() == {"prompt": "床a<|eot_id|>"}
    split = ask.post("/tokenize", json={"prompt": "<|eot_id|>", "split_special_tokens": True}).json()
    assert "".join(map(server.engine.decode, ([token] for token in split["tokens"]))) == "<|eot_id|>"


def test_templates(server, ask):
    body = {"messages": [{"role": "user", "content": "床"}]}
    told = ask.post("/apply_template", json=body).json()
    assert told["prompt"] == server.engine.render_chat(body["messages"])
    assert told["tokens"] == server.engine.apply_chat_template(body["messages"])
    assert ask.post("/tokenize", json=body).json()["tokens"] == told["tokens"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": []}, "prompt"),
        ("/tokenize", {"prompt": "a", "chat_template_kwargs": {}}, "chat_template_kwargs"),
        ("/tokenize", {"prompt": "a" * 5000}, "prompt"),
        ("/detokenize", {"tokens": [160]}, "token_ids"),
        ("/detokenize", {"tokens": ["a"]}, "tokens.0"),
        ("/apply_template", {"messages": []}, "messages"),
        (
            "/apply_template",
            {"messages": [{"role": "user", "content": "a"}], "chat_template": "{{ 1 }}"},
            "chat_template",
        ),
        (
            "/apply_template",
            {"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"messages": []}},
            "chat_template_kwargs",
        ),
    ],
    ids=str,
)
def test_what_texts_cannot_be(ask, path, body, param):
    answer = ask.post(path, json=body)
    told = fault(answer, 400, answer.json()["error"]["code"])
    assert told["param"] == param


def test_the_model_may_be_named_everywhere(ask):
    bodies = {
        "/v1/infill": {"segments": ["a", 1]},
        "/v1/edit": {"text": "ab", "spans": [{"start": 0, "end": 1}]},
        "/v1/score": {"prompt": "a", "answer": "b", "mc_num": 1},
        "/tokenize": {"prompt": "a"},
        "/detokenize": {"tokens": [1]},
        "/apply_template": {"messages": [{"role": "user", "content": "a"}]},
    }
    for path, body in bodies.items():
        assert ask.post(path, json=body | {"model": "tiny"}).status_code == 200
        fault(ask.post(path, json=body | {"model": "other"}), 404, "model_not_found")


def test_answers_are_json_that_everybody_reads(ask):
    """No NaN, and UTF-8 as it is."""
    answer = ask.post("/v1/score", json={"prompt": "a", "answer": "b", "mc_num": 1})
    json.loads(answer.text, parse_constant=lambda word: pytest.fail(word))
    assert (
        "床"
        in ask.post("/detokenize", json={"tokens": ask.post("/tokenize", json={"prompt": "床"}).json()["tokens"]}).text
    )
