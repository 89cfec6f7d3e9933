"""Conversations on their way into a chat template: parts, an answer begun, names, roles, and what callers add."""

import pytest

from llada_rt.errors import ChatRoleError, ChatTemplateError, InvalidRequestError
from llada_rt.text.chat.messages import check_messages, check_variables, render_chat
from llada_rt.text.chat_template import ChatTemplate

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
STRIPS = CHATML.replace("m.content", "m.content | trim")
PARTS = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}[{{ p.type }}:{{ p.text }}]{% endfor %}{% endif %}{% endfor %}"
)
KNOWS_TOOLS = "{% for m in messages %}{% if m.role == 'tool' %}T{% endif %}{{ m.content }}{% endfor %}"
DROPS_SYSTEM = "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}"
REFUSES_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{{ messages[0].content }}"
)


def says(role: str, content: object, **more: object) -> dict:
    return {"role": role, "content": content, **more}


def text_parts(*texts: str) -> list[dict]:
    return [{"type": "text", "text": text} for text in texts]


def rendered(source: str, *messages: dict, **variables: object) -> str:
    return render_chat(ChatTemplate(source), list(messages), variables)


@pytest.mark.parametrize(
    ("source", "messages", "expected"),
    [
        (CHATML, [says("user", "hi")], "<|user|>hi<|end|><|assistant|>"),
        (CHATML, [says("user", text_parts("a", "b"))], "<|user|>a\nb<|end|><|assistant|>"),
        (CHATML, [says("user", tuple(text_parts("a")))], "<|user|>a<|end|><|assistant|>"),
        (PARTS, [says("user", text_parts("a", "b"))], "[text:a][text:b]"),
        (PARTS, [says("user", "a")], "a"),
        # An answer begun: no end, no new header.
        (CHATML, [says("user", "a"), says("assistant", "So ")], "<|user|>a<|end|><|assistant|>So "),
        (STRIPS, [says("user", "a"), says("assistant", "So ")], "<|user|>a<|end|><|assistant|>So"),
        (STRIPS, [says("user", "a"), says("assistant", " So")], "<|user|>a<|end|><|assistant|>So"),
        (CHATML, [says("user", "a"), says("assistant", "")], "<|user|>a<|end|><|assistant|>"),
        (CHATML, [says("user", "So"), says("assistant", "So")], "<|user|>So<|end|><|assistant|>So"),
        (CHATML, [says("user", "a"), says("assistant", text_parts("b", "c"))], "<|user|>a<|end|><|assistant|>b\nc"),
        (PARTS, [says("user", "a"), says("assistant", text_parts("b", "c"))], "a[text:b][text:c"),
        ("{{ messages[0].name }}:{{ messages[0].content }}", [says("user", "a", name="Li")], "Li:a"),
        (KNOWS_TOOLS, [says("user", "a"), says("tool", "b")], "aTb"),
        (CHATML, [says("system", "s"), says("user", "a")], "<|system|>s<|end|><|user|>a<|end|><|assistant|>"),
    ],
)
def test_what_conversations_become(source, messages, expected):
    assert rendered(source, *messages) == expected


@pytest.mark.parametrize(
    ("source", "messages", "words"),
    [
        (CHATML, [says("robot", "x"), says("user", "a")], ["messages[0].role", "system, user, assistant", "robot"]),
        (CHATML, [says("user", "x"), says("tool", "a")], ["messages[1].role", "tool"]),
        (KNOWS_TOOLS, [says("robot", "x")], ["assistant, tool", "robot"]),
        (DROPS_SYSTEM, [says("system", "x"), says("user", "a")], ["leaves out", "system"]),
        (REFUSES_SYSTEM, [says("system", "x"), says("user", "a")], ["no role 'system'", "no system role"]),
    ],
)
def test_roles_that_the_template_does_not_know(source, messages, words):
    with pytest.raises(ChatRoleError) as caught:
        rendered(source, *messages)
    assert caught.value.code == "unknown_role"
    assert caught.value.param == "messages"
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_refusal_for_another_reason_stays_one():
    with pytest.raises(ChatTemplateError, match="odd"):
        rendered("{{ raise_exception('odd') }}", says("system", "x"), says("user", "a"))


def test_an_answer_that_the_template_drops_cannot_be_continued():
    with pytest.raises(ChatTemplateError, match="continued"):
        rendered("{{ messages[0].content }}", says("user", "a"), says("assistant", "b"))


def test_variables_reach_the_template():
    source = (
        "{% if enable_thinking is defined and not enable_thinking %}no{% endif %}"
        "{{ tools | tojson }}{{ messages[0].content }}"
    )
    assert rendered(source, says("user", "a")) == "nulla"
    assert rendered(source, says("user", "a"), enable_thinking=False, tools=[{"a": (1, 2)}]) == 'no[{"a": [1, 2]}]a'


DEEP: list = []
for _ in range(40):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ([1], ["mapping", "list"]),
        ({"messages": []}, ["other than", "messages"]),
        ({"add_generation_prompt": False}, ["add_generation_prompt"]),
        ({3: 1}, ["3"]),
        ({"a b": 1}, ["a b"]),
        ({"a": object()}, ["a", "JSON", "object"]),
        ({"a": {1: 2}}, ["JSON"]),
        ({"a": [b"x"]}, ["bytes"]),
        ({"a": 2**70}, ["64 bits"]),
        ({"a": DEEP}, ["levels"]),
        ({"a": len}, ["builtin"]),
    ],
)
def test_bad_variables(variables, words):
    with pytest.raises(InvalidRequestError) as caught:
        check_variables(variables)
    assert caught.value.param == "chat_template_kwargs"
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_list_that_holds_itself_is_too_deep():
    loop: list = []
    loop.append(loop)
    with pytest.raises(InvalidRequestError, match="levels"):
        check_variables({"a": loop})


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([says("user", [])], ["messages[0].content", "an empty list"]),
        ([says("user", ["a"])], ["messages[0].content[0]", "'type': 'text'", "str"]),
        ([says("user", [{"type": "image_url"}])], ["image_url"]),
        ([says("user", [{"type": "text", "text": None}])], ["content[0].text", "NoneType"]),
        ([says("user", 5)], ["content", "int"]),
        ([says("user", "a", name=5)], ["messages[0].name", "int"]),
        ([says("user", "a", colour="x")], ["name", "colour"]),
        ([says("system", "a")], ["user", "system"]),
        ([says("assistant", "a")], ["user", "assistant"]),
        ([says(5, "a")], ["role", "int"]),
        ([{("role",): 1}], ["role"]),
    ],
)
def test_bad_messages(messages, words):
    with pytest.raises(InvalidRequestError) as caught:
        check_messages(messages)
    assert caught.value.param == "messages"
    assert all(word in str(caught.value) for word in words), str(caught.value)
