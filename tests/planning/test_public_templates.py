"""Chat templates render to the text that transformers makes of them: public ones, where some are found, and our own.

Public templates are looked for in installed packages and in the folders of LLADA_RT_CHAT_TEMPLATES; none is kept here.
`pip download --no-deps --no-binary :all: llama-cpp-python` brings 70, npm's @huggingface/ollama-utils 97 as strings.
"""

# ruff: noqa: E501 - a template is easier to read in one line

import functools
import importlib.metadata
import os
from pathlib import Path

import pytest

from llada_rt.errors import ChatTemplateError
from llada_rt.text.chat_template import MAX_TEMPLATE_CHARS, ChatTemplate
from tests.reference import chat_template as reference

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "enum": ["x", "y"]}}, "required": ["a"]}
TOOLS = [{"type": "function", "function": {"name": "w", "description": 'd "x" é<', "parameters": SCHEMA}}]
CALL = {"id": "call12345", "type": "function", "function": {"name": "w", "arguments": {"a": "x"}}}


def _says(role: str, content: object, **more: object) -> dict:
    return {"role": role, "content": content, **more}


CONVERSATIONS = {
    "one": ([_says("user", "  hello \n")], {}),
    "talk": ([_says("user", "Hi"), _says("assistant", "<think>hm</think> yes  "), _says("user", "床前 {{x}}")], {}),
    "system": ([_says("system", "Be brief."), _says("user", "a"), _says("assistant", "b"), _says("user", "c")], {}),
    "parts": ([_says("user", [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}])], {}),
    "whole": ([_says("user", "a"), _says("assistant", "b")], {"add_generation_prompt": False}),
    "no_thinking": ([_says("user", "a")], {"enable_thinking": False}),
    "tools": ([_says("user", "weather?")], {"tools": TOOLS}),
    "call": (
        [
            _says("user", "weather?"),
            _says("assistant", "", tool_calls=[CALL]),
            _says("tool", "sun", name="w", tool_call_id="call12345"),
            _says("user", "more"),
        ],
        {"tools": TOOLS},
    ),
    "documents": ([_says("user", "q")], {"documents": [{"title": "T", "text": "body"}]}),
    "unknown_role": ([_says("robot", "x"), _says("user", "q")], {}),
}


def _found() -> list[Path]:
    paths = {
        path
        for folder in filter(None, os.environ.get("LLADA_RT_CHAT_TEMPLATES", "").split(os.pathsep))
        for path in Path(folder).rglob("*.jinja")
    }
    for package in importlib.metadata.distributions():
        for file in package.files or ():
            if file.suffix == ".jinja":
                paths.add(Path(str(package.locate_file(file))))
    return sorted(path for path in paths if path.is_file() and _is_chat_template(path))


def _is_chat_template(path: Path) -> bool:
    if path.stat().st_size > MAX_TEMPLATE_CHARS:
        return False
    text = path.read_text(errors="replace")
    return "messages" in text and "role" in text and "{%" in text


def _outcome(render, source, messages, options):
    """The text, or None where it is refused."""
    try:
        return render(source, messages, **options)
    except Exception:
        return None


@functools.lru_cache(maxsize=1)
def _template(source):
    return ChatTemplate(source, special_tokens=SPECIAL)


def _ours(source, messages, *, add_generation_prompt=True, **variables):
    return _template(source).render(messages, add_generation_prompt=add_generation_prompt, variables=variables)


def _theirs(source, messages, **options):
    return reference.render(source, messages, **SPECIAL, **options)


def test_public_templates_render_as_transformers_renders_them():
    paths = _found()
    if not paths:
        pytest.skip("no public chat templates here: install a package that holds some, or name a folder of them")
    rendered = set()
    for path in paths:
        source = path.read_text()
        for name, (messages, options) in CONVERSATIONS.items():
            expected = _outcome(_theirs, source, messages, options)
            if expected is None:  # transformers itself refuses
                with pytest.raises(ChatTemplateError):
                    _ours(source, messages, **options)
            else:
                assert _ours(source, messages, **options) == expected, (path, name)
                rendered.add(path)
    assert len(rendered) >= len(paths) * 9 // 10


SNIPPETS = [
    "{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}{{ messages[0].content }}",
    "{% if false %}{{ x | no_such_filter }}{% elif 1 %}{% else %}{{ 1 is no_such_test }}{% endif %}",
    "{{ {'b': [1, 2.5, none, true], 'a': 'é<&>'} | tojson }}",
    "{{ {'b': 1, 'a': {'c': []}} | tojson(indent=2, sort_keys=true) }}{{ 'é' | tojson(ensure_ascii=true) }}",
    "{{ [1, {'a': 2}] | tojson(separators=(',', ':')) }}{{ [1, 2] | tojson(indent=4) }}{{ 'x' | tojson | safe }}",
    "{% for k, v in {'b': 1, 'a': 2, 'C': 0} | dictsort %}{{ k }}{{ v }}{% endfor %}",
    "{% for k, v in {'b': 1, 'a': 2} | dictsort(by='value', reverse=true) %}{{ k }}{{ v }}{% endfor %}",
    "{{ strftime_now('%Y-%m') }}{{ strftime_now('%d %b %Y') }}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "{% if tools is not none %}wrong{% endif %}{% if documents is defined %}d{% endif %}{% if x is defined %}x{% endif %}",
    "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in [] %}x{% else %}none{% endfor %}{% for i in [1] %}x{% else %}none{% endfor %}",
    "{% for i in [1, 2, 3] %}{{ loop.index }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }};{% endfor %}",
    "{% for i in [1, 2] %}{{ loop.previtem }}|{{ loop.nextitem is defined }}|{{ loop.cycle('a', 'b') }}{{ loop.changed(1) }}{% endfor %}",
    "{% for i in [1, 2] %}{% for j in [3] %}{{ loop.index }}{{ loop.depth }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.length }}{{ m.content }}{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}",
    "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}",
    "{% set ns = namespace(a=1, b='q') %}{% for i in [1, 2] %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.c is defined }}",
    "{% set x %}a{{ 1 }}b{% endset %}{{ x | length }}{% set y | upper %}abc{% endset %}{{ y }}",
    "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}",
    "{% filter upper | replace('A', 'b') %}a{{ 'c' }}{% endfilter %}",
    "{% macro f(a, b='x', c=a) %}[{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}]{% endmacro %}{{ f(1) }}{{ f(1, 2, 3, 4, z=5) }}",
    "{% macro f(n) %}{% if n %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{% macro f() %}<{{ caller('x') }}>{% endmacro %}{% call(a) f() %}{{ a }}!{% endcall %}",
    "{% macro f() %}{{ y }}{% endmacro %}{% set y = 3 %}{{ f() }}",
    "{{ messages[0]['content'][1:] }}{{ messages[0].content[::-1] }}{{ messages[-1:] | length }}{{ 'abc'[-1] }}{{ 'abc'[9] }}",
    "{{ [1, 'a', none, true, 1.5, {'k': ['v', \"it's\"]}, (1,), ()] }}{{ range(3) }}{{ none }}{{ 3.0 }}",
    "{{ 'a' ~ 1 ~ none }}{{ 1 + 2 * 3 - 4 / 2 }}{{ 7 // 2 }}{{ 7 % 3 }}{{ 2 ** 10 }}{{ -3 }}{{ 'ab' * 2 }}{{ [1] + [2] }}",
    "{{ 1 < 2 < 3 }}{{ 'a' in 'cat' }}{{ 'z' not in ['a'] }}{{ 1 == 1.0 }}{{ none == false }}{{ x == y }}{{ 3 in {3: 4} }}",
    "{{ x or 'd' }}{{ 1 and 0 }}{{ not x }}{{ 'yes' if true }}{{ 'yes' if false }}{{ 'a' if x else 'b' }}",
    "{{ x | default('q') }}{{ '' | d('e', true) }}{{ none | default('n') }}",
    "{{ 'a-b c' | title }}{{ ' x ' | trim }}{{ 'xxaxx' | trim('x') }}{{ 'aB' | capitalize }}{{ 12 | string | length }}",
    "{{ 'a\nb\n\nc' | indent }}{{ 'a\nb' | indent(2, true) }}{{ 'a\n\nb' | indent('>', blank=true) }}",
    "{{ 'ab' | center(7) }}{{ 'a b c' | wordcount }}{{ 'one two three' | truncate(9) }}{{ 'a b c d' | wordwrap(3) }}",
    "{{ '%s is %05.1f' | format('x', 2.25) }}{{ '%d%%' % 5 }}{{ '%(a)s' % {'a': 'q'} }}{{ '{} {x:>4}'.format(1, x='y') }}",
    "{{ [3, 1, 2] | sort }}{{ ['b', 'A'] | sort }}{{ ['b', 'A'] | sort(case_sensitive=true, reverse=true) }}",
    "{{ messages | map(attribute='role') | list }}{{ ['a'] | map('upper') | join }}{{ [1, 2] | map('string') | join('+') }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('|') }}",
    "{% if messages | selectattr('role', 'eq', 'nobody') %}always{% endif %}{{ [1, 0] | select | list }}{{ [1, 2] | reject('odd') | list }}",
    "{{ [1, 1, 2] | unique | list }}{{ [1, 2, 3] | sum }}{{ [1, 5] | max }}{{ ['b', 'A'] | min }}{{ [1, 2] | first }}{{ [1, 2] | last }}",
    "{{ [1, 2, 3] | batch(2) | list }}{{ [1, 2, 3] | batch(2, 0) | list }}{{ [1, 2, 3, 4] | slice(3) | list }}",
    "{{ 'abc' | reverse }}{{ [1, 2] | reverse | list }}{{ 'abc' | list }}{{ {'a': 1} | items | list }}",
    "{{ 3.7 | int }}{{ 'z' | int(9) }}{{ '0x1f' | int(0, 16) }}{{ '1.5' | float }}{{ 2.567 | round(2) }}{{ 2.1 | round(0, 'ceil') }}{{ -2 | abs }}",
    "{{ '<a>' | e }}{{ ('<b>' | safe) + '<c>' }}{{ '<c>' + ('<b>' | safe) }}{{ '<c>' ~ ('<b>' | safe) }}",
    "{{ messages[0].items() | list | length }}{% for k, v in messages[0].items() %}{{ k }}{% endfor %}{{ messages[0].get('z', 'y') }}",
    "{{ {'items': 3}['items'] }}{{ {'a': 1}.a }}{{ dict(a=1, b=2) }}{{ messages[0].keys() | list }}",
    "{{ ' a,b , c'.split(',') }}{{ 'a b  c'.split() }}{{ 'a\nb'.splitlines() }}{{ 'a,b,c'.rsplit(',', 1) }}{{ 'a-b'.partition('-') }}",
    "{{ 'abc'.startswith('ab') }}{{ 'abc'.endswith(('x', 'c')) }}{{ 'abc'.find('c') }}{{ '7'.zfill(3) }}{{ 'a'.ljust(3) }}|{{ 'x'.isdigit() }}",
    "{% set j = joiner('; ') %}{{ j() }}a{{ j() }}b{{ j() }}c",
    "{{ x is undefined }}{{ 1 is number }}{{ 'a' is string }}{{ [] is iterable }}{{ {} is mapping }}{{ none is none }}{{ 4 is even }}{{ 4 is divisibleby 2 }}",
    "{{ 1 is integer }}{{ true is integer }}{{ 1.0 is float }}{{ true is boolean }}{{ 'a' is sequence }}{{ raise_exception is callable }}{{ 1 is sameas 1 }}",
    "  {% if true %}\n  a\n  {% endif %}\n b {#- c -#} d {%- if true %} e{% endif +%}\n{% raw %}{{ x }}{% endraw %}\n",
    "{{ messages[0].nothing }}{{ messages[0]['nothing'] }}{{ messages[9] }}",
]
REFUSED = [
    "{{ raise_exception('no') }}",
    "{{ x.y }}",
    "{{ x + 1 }}",
    "{{ none + 1 }}",
    "{% for i in none %}{% endfor %}",
    "{{ messages.append(1) }}",
    "{% set messages.x = 1 %}",
    "{{ x | tojson }}",
]


@pytest.mark.parametrize("source", SNIPPETS, ids=[f"{i}:{source[:40]}" for i, source in enumerate(SNIPPETS)])
def test_each_construct_gives_the_text_that_jinja2_gives(source):
    messages = CONVERSATIONS["talk"][0]
    assert _ours(source, messages) == _theirs(source, messages)


@pytest.mark.parametrize("source", REFUSED)
def test_what_jinja2_refuses_is_refused(source):
    messages = CONVERSATIONS["talk"][0]
    assert _outcome(_theirs, source, messages, {}) is None
    with pytest.raises(ChatTemplateError):
        _ours(source, messages)
