"""The chat template's sandbox: what published templates do works, what an attacker does is a typed error, soon."""

import time

import pytest

from llada_rt.errors import ChatTemplateError
from llada_rt.text.chat_template import MAX_TEMPLATE_CHARS, ChatTemplate

LLADA = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
HELLO = [{"role": "user", "content": "  hello \n"}]


def test_llada_template():
    rendered = ChatTemplate(LLADA, special_tokens={"bos_token": "<|startoftext|>"}).render(
        [*HELLO, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "床前"}]
    )
    assert rendered == (
        "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nhello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nhi<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n床前<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ messages[0]['content'].strip() | upper }}", "HELLO"),
        ("{{ messages[0].content.split('l')[-1].strip() }}", "o"),
        ("{%- for m in messages -%}\n  {{ m.role ~ ':' ~ loop.last }}\n{%- endfor %}", "user:True"),
        ("{% if tools is not none or documents %}x{% endif %}{% if add_generation_prompt %}a{% endif %}", "a"),
        ("{% set ns = namespace(n=0) %}{% for i in range(5) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "10"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
        ("{{ ['a', 'b'] | join('-') }}{{ 'x,y'.replace(',', ';') }}", "a-bx;y"),
        ("{% if 'ell' in messages[0].content and messages[0].role in ['user', 'system'] %}y{% endif %}", "y"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f('q') }}", "<q>"),
    ],
)
def test_what_templates_do(source, expected):
    assert ChatTemplate(source).render(HELLO) == expected


DOUBLING = "{% set ns = namespace(s='aa') %}{% for i in range(60) %}{% set ns.s = REPLACE %}{% endfor %}{{ ns.s }}"
ATTACKS = [
    "{{ ''.__class__ }}",
    "{{ messages[0].__init__ }}",
    "{{ range.__globals__ }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ ''|attr('__class__') }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ lipsum() }}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    "{% for i in range(10**9) %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ 'a' * 10**9 }}",
    "{{ [1] * 10**9 }}",
    "{{ 10**10**10 }}",
    "{{ 'a'.ljust(10**9) }}",
    "{{ 'a'|center(10**9) }}",
    "{{ '%1000000000d' % 3 }}",
    "{{ '{:1000000000}'.format(3) }}",
    DOUBLING.replace("REPLACE", "ns.s ~ ns.s"),
    DOUBLING.replace("REPLACE", "ns.s + ns.s"),
    DOUBLING.replace("REPLACE", "ns.s|replace('a', 'aa')"),
    DOUBLING.replace("REPLACE", "ns.s.replace('a', 'aa')"),
    DOUBLING.replace("REPLACE", "[ns.s, ns.s]|join"),
    DOUBLING.replace("REPLACE", "[ns.s, ns.s]"),
    DOUBLING.replace("REPLACE", "[ns.s, ns.s]").replace("{{ ns.s }}", "{{ ns.s == 3 }}"),
    DOUBLING.replace("REPLACE", "(ns.s, ns.s)").replace("{{ ns.s }}", "{{ {}[ns.s] }}"),
    DOUBLING.replace("REPLACE", "(ns.s, ns.s)").replace("{{ ns.s }}", "{{ {ns.s: 1} }}"),
    "".join(f"{{% macro m{i}() %}}{{{{ m{i + 1}() }}}}{{{{ m{i + 1}() }}}}{{% endmacro %}}" for i in range(60))
    + "{% macro m60() %}{% endmacro %}{{ m0() }}",
    "{% set x = 'a' * 2000000 %}{% for i in range(90000) %}{% if x.upper() == 'b' %}{% endif %}{% endfor %}",
    "{{ raise_exception('only user messages') }}",
    "{{ namespace(a=messages) }}",
    "{{ messages[0].content.nothing.more }}",
    "{% if",
    "{{ 1 / 0 }}",
    "x" * (MAX_TEMPLATE_CHARS + 1),
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
]


@pytest.mark.parametrize("source", ATTACKS, ids=[source[:50] for source in ATTACKS])
def test_attacks_end_in_a_typed_error(source):
    began = time.monotonic()
    with pytest.raises(ChatTemplateError) as caught:
        ChatTemplate(source).render(HELLO)
    assert time.monotonic() - began < 10
    assert len(str(caught.value)) < 1000
