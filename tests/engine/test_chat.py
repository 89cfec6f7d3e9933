"""Conversations through an engine, and model folders whose tokenizer files have odd shapes."""

import asyncio
import json

import pytest

from llada_rt import AsyncEngine, ChatTemplateError, Engine, InvalidRequestError, SamplingParams, TokenizerError
from tests.engine.models import write_folder

SHORT = SamplingParams(gen_length=8)
TEMPLATE = "{% if loud %}!{% endif %}{% for m in messages %}{{ m.content }};{% endfor %}"
HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("chat") / "m", template=TEMPLATE)


def test_an_answer_begun_is_continued(folder):
    begun = [*HELLO, {"role": "assistant", "content": "ho"}]
    with Engine(folder, threads=1) as engine:
        output = engine.chat(begun, SHORT)
        assert output.prompt_token_ids == engine.tokenizer.encode("hi;ho")
        assert output.outputs[0].token_ids == engine.generate("hi;ho", SHORT)[0].outputs[0].token_ids


def test_parts_and_variables_reach_the_model(folder):
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Li"}]
    with Engine(folder, threads=1) as engine:
        output = engine.chat(parts, SHORT, chat_template_kwargs={"loud": True})
        assert output.prompt_token_ids == engine.tokenizer.encode("!a\nb;")
        assert engine.apply_chat_template(parts, chat_template_kwargs={"loud": 1}) == output.prompt_token_ids
        prompt = {"messages": HELLO, "chat_template_kwargs": {"loud": True}}
        assert engine.generate(prompt, SHORT)[0].prompt_token_ids == engine.tokenizer.encode("!hi;")
        with pytest.raises(InvalidRequestError, match="chat_template_kwargs"):
            engine.generate({"prompt": "hi", "chat_template_kwargs": {}}, SHORT)
        with pytest.raises(InvalidRequestError, match="chat_template_kwargs"):
            engine.chat(HELLO, SHORT, chat_template_kwargs=[1])


def test_async_chat_takes_the_same(folder):
    async def ask() -> list[int]:
        async with AsyncEngine(folder, threads=1) as engine:
            output = await engine.chat(HELLO, SHORT, chat_template_kwargs={"loud": True})
            assert output.prompt_token_ids == engine.engine.tokenizer.encode("!hi;")
            return output.prompt_token_ids

    assert asyncio.run(ask())


ODD_TEMPLATES = [
    (5, ["expected text or a list", "int"]),
    ({"default": "x"}, ["expected text or a list", "dict"]),
    ([5], ["chat_template[0]", "object", "int"]),
    (["x"], ["chat_template[0]", "str"]),
    ([{"name": [], "template": "x"}], ["chat_template[0].name", "text", "list"]),
    ([{"name": {}, "template": "x"}], ["chat_template[0].name", "dict"]),
    ([{"template": "x"}], ["chat_template[0].name", "NoneType"]),
    ([{"name": "default", "template": "x"}, {"name": "b", "template": 5}], ["chat_template[1].template", "int"]),
    ([{"name": "default"}], ["chat_template[0].template", "NoneType"]),
    ([{"name": "default", "template": ["x"]}], ["chat_template[0].template", "list"]),
    ([[]], ["chat_template[0]", "list"]),
]


@pytest.mark.parametrize(("template", "words"), ODD_TEMPLATES, ids=str)
def test_odd_named_templates_are_typed_errors(tmp_path, template, words):
    folder = write_folder(tmp_path / "m")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    with pytest.raises(ChatTemplateError) as caught:
        Engine(folder, threads=1)
    assert all(word in str(caught.value) for word in ["tokenizer_config.json", *words]), str(caught.value)


@pytest.mark.parametrize(("names", "text"), [(["default", "tools"], "default"), (["tools"], None), ([], None)])
def test_of_named_templates_the_default_is_taken(tmp_path, names, text):
    folder = write_folder(tmp_path / "m")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    named = [{"name": name, "template": name} for name in names]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": named}))
    with Engine(folder, threads=1) as engine:
        assert engine.tokenizer.template_source == text
        if text is None:
            with pytest.raises(ChatTemplateError, match="tools" if names else "none"):
                engine.chat(HELLO, SHORT)


ODD_SPECIAL = [5, [], {"content": 5}, {"content": []}, {}, None, True]


@pytest.mark.parametrize("token", ODD_SPECIAL, ids=str)
def test_odd_special_tokens_are_left_out(tmp_path, token):
    folder = write_folder(tmp_path / "m", template="{{ bos_token is defined }}{{ messages[0].content }}")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": token}))
    with Engine(folder, threads=1) as engine:
        assert engine.tokenizer.render_chat(HELLO) == "Falsehi"


ODD_DECODERS = [
    [],
    [1],
    5,
    "Fuse",
    True,
    {},
    {"type": []},
    {"type": "Sequence"},
    {"type": "Sequence", "decoders": 5},
    {"type": "Sequence", "decoders": {}},
    {"type": "Sequence", "decoders": [5]},
    {"type": "Sequence", "decoders": [[]]},
    {"type": "Sequence", "decoders": [{"type": "Sequence", "decoders": None}]},
    {"type": "Strip", "content": "x", "start": 0, "stop": []},
    ["Fuse"],
    [{"type": "Fuse"}],
    [[], []],
    [[{"type": "Fuse"}]],
]


@pytest.mark.parametrize("decoder", ODD_DECODERS, ids=str)
def test_odd_decoders_are_typed_errors_or_do_no_harm(tmp_path, decoder):
    folder = write_folder(tmp_path / "m")
    settings = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(settings | {"decoder": decoder}))
    try:
        engine = Engine(folder, threads=1)
    except TokenizerError as error:
        message = str(error)
    else:
        with engine:
            assert engine.chat(HELLO, SHORT)
        return
    assert "tokenizer.json" in message


TYPED = "hi <|eot_id|><|mdm_mask|><|endoftext|><|startoftext|> there"


def test_control_tokens_in_a_message_are_characters(speaker):
    messages = [{"role": "user", "content": TYPED}]
    special = {speaker.mask_token_id, *speaker.end_token_ids}
    ids = speaker.chat(messages, SamplingParams(gen_length=4)).prompt_token_ids
    assert ids == speaker.apply_chat_template(messages)
    assert special.isdisjoint(ids)
    assert TYPED in speaker.tokenizer.decode(ids)
    ids = speaker.chat(messages, SamplingParams(gen_length=4, split_special_tokens=False)).prompt_token_ids
    assert special <= {*ids}
    (output,) = speaker.generate({"messages": messages, "segments": ["a", 2]})
    assert special.isdisjoint(output.prompt_token_ids)


def test_a_text_means_control_tokens_unless_it_is_split(speaker):
    special = {speaker.mask_token_id, *speaker.end_token_ids}
    params = SamplingParams(gen_length=4, split_special_tokens=True)
    for prompt in (TYPED, {"prompt": TYPED}):
        assert special <= {*speaker.generate(prompt, SamplingParams(gen_length=4))[0].prompt_token_ids}
        ids = speaker.generate(prompt, params)[0].prompt_token_ids
        assert special.isdisjoint(ids)
        assert speaker.tokenizer.decode(ids) == TYPED
    with pytest.raises(InvalidRequestError, match="holds the mask token"):
        speaker.infill([TYPED, 2])
    filled = speaker.infill([TYPED, 2], params).outputs[0]
    assert filled.text.startswith(TYPED)
    middle = speaker.fill_middle(TYPED, TYPED, params)
    assert special.isdisjoint(middle.prompt_token_ids)
    assert middle.text.endswith(TYPED)


def test_a_models_defaults_may_say_how_texts_are_read(tmp_path):
    folder = write_folder(tmp_path / "m", generation={"llada_rt": {"gen_length": 4, "split_special_tokens": False}})
    with Engine(folder, threads=1) as engine:
        ids = engine.chat([{"role": "user", "content": TYPED}]).prompt_token_ids
        assert engine.mask_token_id in ids
