"""OpenAI's own client: what it sends is honoured or refused, what it reads is what the engine says."""

import asyncio
import json
import time

import openai
import pytest

from llada_rt import SamplingParams
from llada_rt.params import ALIASES
from tests.engine.conftest import held

MODEL = "tiny"
QUESTION = [{"role": "user", "content": "床前明月光"}]
SAMPLED = {"temperature": 1.0, "seed": 11}


def own(server, prompt, **options):
    (output,) = server.engine.generate(prompt, SamplingParams(**options))
    return output


# ---------------------------------------------------------------- models


def test_models(client):
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == (MODEL, "model", "llada-rt")
    assert client.models.retrieve(MODEL).id == MODEL


def test_a_model_that_is_not_served(client):
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("gpt-4")
    assert error.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="../../etc/passwd", messages=QUESTION)
    assert (error.value.code, error.value.param) == ("model_not_found", "model")


# ---------------------------------------------------------------- conversations


def test_chat_is_the_engines_chat(server, client):
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, **SAMPLED)
    expected = own(server, {"messages": QUESTION}, **SAMPLED)
    (choice,) = answer.choices
    assert choice.message.content == expected.text
    assert choice.message.role == "assistant"
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage.prompt_tokens == len(expected.prompt_token_ids)
    assert answer.usage.completion_tokens == expected.usage.completion_tokens
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert choice.diffusion == expected.outputs[0].diffusion.to_dict() | {
        "finish_reason": expected.outputs[0].finish_reason,
        "stop_reason": None,
        "seed": 11,
    }


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ({"max_tokens": 8}, {"gen_length": 8}),
        ({"max_completion_tokens": 8}, {"gen_length": 8}),
        ({"temperature": 0.7, "seed": 5}, {"temperature": 0.7, "seed": 5}),
        ({"n": 3, "temperature": 1.0, "seed": 5}, {"n": 3, "temperature": 1.0, "seed": 5}),
        ({"stop": "a", **SAMPLED}, {"stop": "a", **SAMPLED}),
        ({"stop": ["a", "明"], **SAMPLED}, {"stop": ["a", "明"], **SAMPLED}),
        ({"extra_body": {"steps": 6}}, {"steps": 6}),
        ({"extra_body": {"block_length": 6, "gen_length": 12}}, {"block_length": 6, "gen_length": 12}),
        ({"extra_body": {"preset": "fast"}}, {"preset": "fast"}),
        ({"extra_body": {"preset": "reference"}}, {"preset": "reference"}),
        ({"extra_body": {"cache": "dual"}}, {"cache": "dual"}),
        ({"extra_body": {"threshold": 0.02}}, {"threshold": 0.02}),
        ({"extra_body": {"factor": 2}}, {"factor": 2}),
        ({"extra_body": {"remasking": "random"}, **SAMPLED}, {"remasking": "random", **SAMPLED}),
        ({"extra_body": {"block_order": "confidence"}}, {"block_order": "confidence"}),
        ({"extra_body": {"cfg_scale": 0.5}}, {"cfg_scale": 0.5}),
        ({"extra_body": {"stop_token_ids": [5, 6]}, **SAMPLED}, {"stop_token_ids": [5, 6], **SAMPLED}),
        ({"extra_body": {"max_nfe": 2}}, {"max_nfe": 2}),
        ({"extra_body": {"logits_eos_inf": True}}, {"logits_eos_inf": True}),
        ({"extra_body": {"confidence_eos_eot_inf": True}}, {"confidence_eos_eot_inf": True}),
        ({"extra_body": {"split_special_tokens": False}}, {"split_special_tokens": False}),
        ({"extra_body": {"regex": "[a-d]{3}"}}, {"regex": "[a-d]{3}"}),
        ({"extra_body": {"choice": ["ab", "cd"]}}, {"choice": ["ab", "cd"]}),
        ({"extra_body": {"audit": 1, "cache": "dual"}}, {"audit": 1, "cache": "dual"}),
    ],
    ids=str,
)
def test_options_are_the_engines(server, client, sent, meant):
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, **sent)
    expected = own(server, {"messages": QUESTION}, **meant)
    assert [choice.message.content for choice in answer.choices] == [each.text for each in expected.outputs]
    assert [choice.index for choice in answer.choices] == list(range(len(expected.outputs)))
    words = {"stop": "stop"}
    assert [choice.finish_reason for choice in answer.choices] == [
        words.get(each.finish_reason, "length") for each in expected.outputs
    ]
    assert answer.usage.completion_tokens == expected.usage.completion_tokens
    for choice, each in zip(answer.choices, expected.outputs, strict=True):
        assert choice.diffusion["nfe"] == each.diffusion.nfe
        assert choice.diffusion["stop_reason"] == each.stop_reason
        assert ("audit" in choice.diffusion) == (each.audit is not None)


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases_are_taken(client, alias):
    value = {
        "gen_length": 8,
        "steps": 4,
        "block_length": 4,
        "temperature": 0.5,
        "remasking": "margin",
        "threshold": 0.5,
        "entropy_bound": 0.5,
        "cache": "dual",
        "n": 2,
        "timeout_s": 20,
    }[ALIASES[alias]]
    answer = client.completions.create(model=MODEL, prompt="ab", extra_body={"max_tokens": None, alias: value})
    assert len(answer.choices) == (2 if ALIASES[alias] == "n" else 1)
    with pytest.raises(openai.BadRequestError, match="two names for one option"):
        client.completions.create(model=MODEL, prompt="ab", extra_body={alias: value, ALIASES[alias]: value})


@pytest.mark.parametrize(
    "sent",
    [
        {"user": "u-1"},
        {"metadata": {"a": "b"}},
        {"top_p": 1},
        {"frequency_penalty": 0},
        {"presence_penalty": 0.0},
        {"logit_bias": {}},
        {"tools": []},
        {"tool_choice": "none"},
        {"parallel_tool_calls": True},
        {"store": False},
        {"service_tier": "auto"},
        {"modalities": ["text"]},
        {"response_format": {"type": "text"}},
        {"stop": None},
        {"max_tokens": None},
        {"seed": None},
        {"logprobs": False},
        {"extra_body": {"safety_identifier": "x", "prompt_cache_key": "y"}},
        {"extra_body": {"threshold": None, "top_k": -1, "min_p": 0}},
    ],
    ids=str,
)
def test_what_asks_for_nothing_passes(server, client, sent):
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, **sent)
    assert answer.choices[0].message.content == own(server, {"messages": QUESTION}).text


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({"top_p": 0.9}, "top_p"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": -1}, "presence_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"store": True}, "store"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"prediction": {"type": "content", "content": "a"}}, "prediction"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"extra_body": {"top_k": 5}}, "top_k"),
        ({"extra_body": {"best_of": 2}}, "best_of"),
        ({"extra_body": {"min_tokens": 3}}, "min_tokens"),
        ({"extra_body": {"guided_json": {}}}, "guided_json"),
    ],
    ids=str,
)
def test_what_other_servers_know_is_refused_by_name(client, sent, param):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=MODEL, messages=QUESTION, **sent)
    assert (error.value.param, error.value.code) == (param, "unsupported_parameter")
    assert error.value.body["message"].startswith(f"{param}: ")


def test_an_unknown_field_is_refused_with_the_nearest(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=MODEL, messages=QUESTION, extra_body={"treshold": 0.5})
    assert (error.value.param, error.value.code) == ("treshold", "unknown_parameter")
    assert "'threshold'" in error.value.body["message"]


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "gen_length"),
        ({"max_tokens": 1000}, "gen_length"),
        ({"n": 17}, "n"),
        ({"n": 0}, "n"),
        ({"seed": -1}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"extra_body": {"steps": 0}}, "steps"),
        ({"extra_body": {"threshold": 1.0000001}}, "threshold"),
        ({"extra_body": {"threshold": 0.5, "factor": 1.0}}, "factor"),
        ({"extra_body": {"timeout_s": 10_000}}, "timeout_s"),
        ({"extra_body": {"regex": "(a"}}, "regex"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream": True, "stream_options": {"more": 1}}, "stream_options.more"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": None}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": "a" * 200}]}, "messages"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_makes_no_sense_is_refused_by_name(client, sent, param):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(**({"model": MODEL, "messages": QUESTION} | sent))
    assert error.value.param == param
    assert error.value.type == "invalid_request_error"


def test_messages_as_the_client_gives_them_back(server, client):
    """An answer's message, dumped, has fields that say nothing; a developer speaks for the system."""
    first = client.chat.completions.create(model=MODEL, messages=QUESTION).choices[0].message
    developer = {"role": "developer", "content": "a"}
    talk = [*QUESTION, first.model_dump(), {"role": "user", "content": [{"type": "text", "text": "b"}]}]
    answer = client.chat.completions.create(model=MODEL, messages=[developer, *talk])
    said = {"role": "assistant", "content": first.content}
    expected = [developer | {"role": "system"}, *QUESTION, said, {"role": "user", "content": "b"}]
    assert answer.choices[0].message.content == own(server, {"messages": expected}).text


def test_an_answer_begun_is_continued(server, client):
    talk = [*QUESTION, {"role": "assistant", "content": "ab"}]
    answer = client.chat.completions.create(model=MODEL, messages=talk)
    assert answer.choices[0].message.content == own(server, {"messages": talk}).text


@pytest.mark.parametrize("alternatives", [0, 3])
def test_logprobs_of_a_chat(server, client, alternatives):
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, logprobs=True, top_logprobs=alternatives, **SAMPLED
    )
    (expected,) = own(server, {"messages": QUESTION}, logprobs=alternatives, **SAMPLED).outputs
    content = answer.choices[0].logprobs.content
    assert [each.model_dump() for each in content] == expected.openai_logprobs()["content"]
    assert all(len(each.top_logprobs) == alternatives for each in content)


# ---------------------------------------------------------------- streams


def joined(chunks, index=0):
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices if choice.index == index)


@pytest.mark.parametrize("mode", ["append", "denoise"])
@pytest.mark.parametrize("options", [{}, {"n": 3, **SAMPLED}, {"stop": ["a", "明"], **SAMPLED}], ids=str)
def test_a_stream_joined_is_the_answer(server, client, mode, options):
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=QUESTION, stream=True, extra_body={"stream_mode": mode}, **options
        )
    )
    expected = own(server, {"messages": QUESTION}, **options)
    for completion in expected.outputs:
        mine = [choice for chunk in chunks for choice in chunk.choices if choice.index == completion.index]
        assert joined(chunks, completion.index) == completion.text
        assert mine[0].delta.role == "assistant"
        assert [choice.finish_reason for choice in mine[:-1]] == [None] * (len(mine) - 1)
        assert mine[-1].finish_reason in ("stop", "length")
        assert mine[-1].diffusion["nfe"] == completion.diffusion.nfe
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_of_a_stream_comes_last_and_alone(server, client):
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=QUESTION, stream=True, stream_options={"include_usage": True}
        )
    )
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    expected = own(server, {"messages": QUESTION}).usage
    assert chunks[-1].usage.completion_tokens == expected.completion_tokens
    assert chunks[-1].usage.prompt_tokens == expected.prompt_tokens


@pytest.mark.parametrize("mode", ["append", "denoise"])
def test_logprobs_of_a_stream_joined_are_those_of_the_answer(server, client, mode):
    chunks = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        stream=True,
        logprobs=True,
        top_logprobs=2,
        extra_body={"stream_mode": mode},
        **SAMPLED,
    )
    content = [
        each.model_dump()
        for chunk in chunks
        for choice in chunk.choices
        if choice.logprobs
        for each in choice.logprobs.content
    ]
    (expected,) = own(server, {"messages": QUESTION}, logprobs=2, **SAMPLED).outputs
    assert content == expected.openai_logprobs()["content"]


def test_a_denoise_stream_tells_every_position_once(server, client):
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=QUESTION, stream=True, logprobs=True, extra_body={"stream_mode": "denoise"}
        )
    )
    steps = [chunk.diffusion for chunk in chunks if chunk.model_extra.get("diffusion")]
    (expected,) = own(server, {"messages": QUESTION}, return_tokens=True, logprobs=0).outputs
    assert [step["nfe"] for step in steps] == list(range(1, expected.diffusion.nfe + 1))
    told = {each["position"]: each for step in steps for each in step["committed"]}
    assert sum(len(step["committed"]) for step in steps) == len(told) == len(steps[0]["canvas"]) == 12
    start = len(server.engine.encode({"messages": QUESTION}))
    for token in expected.tokens:
        mine = told[token.position - start]
        assert (mine["id"], mine["text"], mine["confidence"]) == (token.id, token.text, token.confidence)
        assert mine["logprob"] == token.logprob
    assert steps[0]["canvas"] == [None] * 12
    assert all("canvas" not in step for step in steps[1:])


def test_a_confidence_that_is_no_number_is_null(client):
    """End tokens that are left out of the confidence have none."""
    chunks = client.completions.create(
        model=MODEL,
        prompt="a",
        max_tokens=60,
        stream=True,
        logprobs=1,
        extra_body={"stream_mode": "denoise", "confidence_eos_eot_inf": True, "stop_token_ids": []},
        **SAMPLED,
    )
    told = [
        each["confidence"]
        for chunk in chunks
        for each in (chunk.model_extra.get("diffusion") or {}).get("committed", ())
    ]
    assert len(told) == 60


def test_a_request_that_is_refused_is_no_stream(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "a" * 200}], stream=True)
    assert error.value.code == "context_length_exceeded"


def test_leaving_a_stream_takes_the_request_out(server, client):
    before = server.engine.stats().num_dropped
    with held(server.engine) as release:
        release()
        with client.chat.completions.create(
            model=MODEL, messages=QUESTION, stream=True, extra_body={"stream_mode": "denoise"}
        ) as stream:
            assert next(iter(stream)).choices[0].delta.role == "assistant"
        until = time.monotonic() + 10
        while server.service.num_open:
            assert time.monotonic() < until
        release()  # the step under way is the last one
        while server.engine.stats().num_dropped == before:
            assert time.monotonic() < until


# ---------------------------------------------------------------- completions


@pytest.mark.parametrize(
    "prompt",
    ["床前明月光", [5, 6, 7], ["ab", "床前", "c"], [[5, 6], [7]]],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 2])
def test_completions_of_one_prompt_or_several(server, client, prompt, stream, n):
    options = {"n": n, **SAMPLED}
    many = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
    expected = [each.text for one in many for each in own(server, one, **options).outputs]
    answer = client.completions.create(model=MODEL, prompt=prompt, stream=stream, **options)
    if not stream:
        assert [choice.text for choice in answer.choices] == expected
        assert [choice.index for choice in answer.choices] == list(range(len(expected)))
        return
    texts = [""] * len(expected)
    for chunk in answer:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == expected


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["床前明", [5, 6], ""], ids=str)
def test_a_suffix_is_what_the_middle_leads_to(server, client, prompt, stream):
    kind = {"prompt": prompt} if isinstance(prompt, str) else {"prompt_token_ids": prompt}
    (output,) = server.engine.generate(
        (kind if prompt else {}) | {"suffix": "光疑"}, SamplingParams(gen_length=4, block_length=2, **SAMPLED)
    )
    (hole,) = output.outputs[0].holes
    answer = client.completions.create(
        model=MODEL,
        prompt=prompt,
        suffix="光疑",
        max_tokens=4,
        stream=stream,
        extra_body={"block_length": 2},
        **SAMPLED,
    )
    if not stream:
        assert answer.choices[0].text == hole.text
        return
    assert "".join(chunk.choices[0].text for chunk in answer) == hole.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["床前", [37, 38], ["a", "b"]], ids=str)
def test_echo(server, client, prompt, stream):
    answer = client.completions.create(model=MODEL, prompt=prompt, echo=True, stream=stream)
    many = prompt if isinstance(prompt[0], str) and isinstance(prompt, list) else [prompt]
    expected = [(one if isinstance(one, str) else server.engine.decode(one)) + own(server, one).text for one in many]
    texts = [""] * len(expected)
    for part in answer if stream else [answer]:
        for choice in part.choices:
            texts[choice.index] += choice.text
    assert texts == expected


def test_echo_with_logprobs_is_refused(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model=MODEL, prompt="a", echo=True, logprobs=1)
    assert error.value.param == "logprobs"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("suffix", [None, "光疑"])
def test_logprobs_of_a_completion(client, stream, suffix):
    answer = client.completions.create(model=MODEL, prompt="床前", suffix=suffix, logprobs=2, stream=stream, **SAMPLED)
    text, told = "", {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for part in answer if stream else [answer]:
        (choice,) = part.choices
        text += choice.text
        for name in told:
            told[name] += getattr(choice.logprobs, name)
    assert "".join(told["tokens"]) == text
    assert [text[at : at + len(token)] for at, token in zip(told["text_offset"], told["tokens"], strict=True)] == (
        told["tokens"]
    )
    assert len(told["token_logprobs"]) == len(told["top_logprobs"]) == len(told["tokens"])
    assert all(value <= 0 for value in told["token_logprobs"])
    for token, value, top in zip(told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True):
        assert token not in top or top[token] == value


# ---------------------------------------------------------------- structured answers


@pytest.mark.parametrize(
    ("response_format", "meant"),
    [
        ({"type": "regex", "regex": "[ab]{2,4}"}, {"regex": "[ab]{2,4}"}),
        ({"type": "choice", "choice": ["明月", "光"]}, {"choice": ["明月", "光"]}),
    ],
    ids=str,
)
def test_a_response_format_of_ours(server, client, response_format, meant):
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, response_format=response_format)
    assert answer.choices[0].message.content == own(server, {"messages": QUESTION}, **meant).text


@pytest.mark.parametrize(
    "response_format",
    [
        {},
        {"type": "xml"},
        {"type": "regex"},
        {"type": "regex", "regex": None},
        {"type": "choice"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": []},
        {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "json_schema", "json_schema": {"schema": []}},
        {"type": []},
    ],
    ids=str,
)
def test_what_a_response_format_cannot_be(client, response_format):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=MODEL, messages=QUESTION, response_format=response_format)
    assert error.value.param == "response_format"
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(model=MODEL, input="a", text={"format": response_format})
    assert error.value.param == "text"


def test_a_rule_is_given_once(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(
            model=MODEL,
            messages=QUESTION,
            response_format={"type": "regex", "regex": "a"},
            extra_body={"regex": "b"},
        )
    assert error.value.param == "regex"


def test_a_json_schema_is_kept_to(client):
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 6}, "old": {"type": "boolean"}},
        "required": ["name", "old"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "a"}],
        max_tokens=48,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}},
    )
    told = json.loads(answer.choices[0].message.content)
    assert set(told) == {"name", "old"}
    assert isinstance(told["old"], bool)
    assert len(told["name"]) <= 6


def test_a_schema_that_the_canvas_cannot_hold_is_refused(client):
    schema = {"type": "array", "items": {"type": "boolean"}, "minItems": 30}
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(
            model=MODEL,
            messages=QUESTION,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        )


# ---------------------------------------------------------------- responses


def test_a_response_is_the_engines_chat(server, client):
    answer = client.responses.create(model=MODEL, input="床前明月光", max_output_tokens=8, temperature=0.0)
    expected = own(server, {"messages": QUESTION}, gen_length=8)
    assert answer.output_text == expected.text
    assert (answer.status, answer.object) == ("completed", "response")
    assert answer.usage.output_tokens == expected.usage.completion_tokens
    assert answer.usage.input_tokens == len(expected.prompt_token_ids)


def test_a_response_to_a_conversation(server, client):
    answer = client.responses.create(
        model=MODEL,
        instructions="a",
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": "b"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "c"}]},
            {"role": "user", "content": "d"},
        ],
    )
    talk = [("system", "a"), ("user", "b"), ("assistant", "c"), ("user", "d")]
    messages = [{"role": role, "content": content} for role, content in talk]
    assert answer.output_text == own(server, {"messages": messages}).text


def test_a_response_is_streamed_in_openais_events(server, client):
    events = list(
        client.responses.create(model=MODEL, input="床前明月光", stream=True, temperature=1.0, extra_body={"seed": 11})
    )
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events if event.type != "response.output_text.delta"]
    begin = ["created", "in_progress", "output_item.added", "content_part.added"]
    end = ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert kinds == [f"response.{kind}" for kind in begin + end]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    expected = own(server, {"messages": QUESTION}, temperature=1.0, seed=11)
    assert text == expected.text == events[-1].response.output_text
    with client.responses.stream(model=MODEL, input="床前明月光") as stream:
        assert stream.get_final_response().output_text == own(server, {"messages": QUESTION}).text


def test_logprobs_of_a_response(server, client):
    answer = client.responses.create(
        model=MODEL, input="床前明月光", include=["message.output_text.logprobs"], top_logprobs=2
    )
    (expected,) = own(server, {"messages": QUESTION}, logprobs=2).outputs
    told = [each.model_dump() for each in answer.output[0].content[0].logprobs]
    assert [each["token"] for each in told] == [each["token"] for each in expected.openai_logprobs()["content"]]


def test_a_response_of_a_form(client):
    form = {"type": "json_schema", "name": "x", "schema": {"type": "boolean"}}
    answer = client.responses.create(model=MODEL, input="a", text={"format": form})
    assert isinstance(json.loads(answer.output_text), bool)


def test_a_response_that_ended_early_is_incomplete(client):
    answer = client.responses.create(model=MODEL, input="a", extra_body={"max_nfe": 1})
    assert answer.status == "incomplete"


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"truncation": "auto"}, "truncation"),
        ({"input": [{"type": "function_call_output", "call_id": "a", "output": "b"}]}, "input"),
        ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, "text"),
        ({"extra_body": {"n": 2}}, "n"),
    ],
    ids=str,
)
def test_what_a_response_cannot_have(client, sent, param):
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(**({"model": MODEL, "input": "a"} | sent))
    assert error.value.param == param


# ---------------------------------------------------------------- async


def test_the_async_client(server):
    async def work():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            answers = await asyncio.gather(
                *(client.completions.create(model=MODEL, prompt="床前", seed=seed, temperature=1) for seed in range(8))
            )
            stream = await client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
            chunks = [chunk async for chunk in stream]
        return [answer.choices[0].text for answer in answers], joined(chunks)

    texts, text = asyncio.run(work())
    assert texts == [own(server, "床前", seed=seed, temperature=1).text for seed in range(8)]
    assert text == own(server, {"messages": QUESTION}).text
