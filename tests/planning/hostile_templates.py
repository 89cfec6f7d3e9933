"""Chat templates of an attacker, by kind. Each must end within a second and some tens of MB, whatever it gives.

Run as a program it renders those it reads from stdin, each in a process of its own that has rendered nothing before,
and prints for each the seconds, the MB it grew by, and what came of it.
"""

# ruff: noqa: E501 - a template is easier to read in one line

import json
import os
import signal
import sys
import time
from pathlib import Path

LIMIT_S = 20  # then the process is ended


def _loop(body: str, setup: str = "", turns: str = "range(99999)") -> str:
    return setup + "{% for i in " + turns + " %}" + body + "{% endfor %}"


def _grow(expression: str, start: str = "'aa'", turns: int = 80) -> str:
    """ns.s = expression, over and over."""
    return (
        _loop("{% set ns.s = " + expression + " %}", "{% set ns = namespace(s=" + start + ") %}", f"range({turns})")
        + "{{ ns.s | length }}"
    )


def _big(expression: str, kind: str = "'a' * 1000000") -> str:
    """The expression of a big x, over and over."""
    return _loop("{% set y = " + expression + " %}", "{% set x = " + kind + " %}")


def _keep(expression: str, kind: str = "'a' * 1000000") -> str:
    """The same, every result kept."""
    return _loop(
        "{% set ns.s = [ns.s, " + expression + "] %}", "{% set x = " + kind + " %}{% set ns = namespace(s=0) %}"
    )


_NESTED = "{% set ns = namespace(s=[1]) %}" + _loop("{% set ns.s = [ns.s, ns.s] %}", "", "range(60)")
_NESTED_KEYS = "{% set ns = namespace(s={'a': 1}) %}" + _loop(
    "{% set ns.s = {'a': ns.s, 'b': ns.s} %}", "", "range(60)"
)

GUARD_NAMES = [
    f"{{% set {name} = range %}}"
    + _loop(_loop("{{ 'x' ~ j }}{{ 'a' == 'b' }}", turns="range(99999)").replace("i in", "j in"))
    for name in (
        "__turns",
        "__flat",
        "__concat",
        "budget",
        "environment",
        "context",
        "self",
        "range",
        "_charge",
        "resolve",
    )
] + [
    "{% macro __turns(x) %}{{ x }}{% endmacro %}" + _loop(_loop("")),
    "{% for __turns in range(9) %}" + _loop(_loop("")) + "{% endfor %}",
    "{% with environment = 1, values = 2 %}" + _loop(_loop("")) + "{% endwith %}",
]

LOOPS = [
    _loop(_loop("")),
    _loop(_loop(_loop("{% set x = i %}"))),
    _loop("{{ i }}", turns="range(10**9)"),
    _loop("{{ 'abcdefgh' * 9 }}"),
    _loop("{% if loop.changed(ns.s) %}{% endif %}", _NESTED),
    _loop("{{ loop.length }}{{ loop.previtem }}{{ loop.cycle('a' * 100000, 'b') }}"),
    _loop("{% for j in loop.nextitem | string %}{% endfor %}"),
    _loop("{% set x = loop %}{% for j in range(99) %}{{ x.index }}{% endfor %}"),
    "{% for i in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}",
    _loop("{% for j in 'a' * 1000000 %}{% endfor %}"),
    _loop("", turns="'é' * 1000000"),
    _loop("{% continue %}") * 50,
    _loop("{{ loop.length }}", turns="'\u2028' * 1000000"),
    _loop("{{ loop.length }}", turns="'x' * 1000000"),
    _loop(_loop("{{ loop.length }}").replace("i in", "j in"), turns="range(99999)"),
    _loop("x" * 100000),
    "{% set x %}" + _loop("x" * 100000) + "{% endset %}",
    "{% filter upper %}" + _loop("x" * 100000) + "{% endfilter %}",
    "{% generation %}" + _loop("x" * 100000) + "{% endgeneration %}",
    "{% macro f() %}" + _loop("x" * 100000) + "{% endmacro %}{{ f() | length }}",
    _loop("{{ range(i).count(3) }}"),
    _loop("{{ range(99999).index(99998) }}"),
    _loop("{{ 99998 in range(99999) }}{{ range(99999) == range(99999) }}{{ 'x' in range(99999) }}"),
]

GROWTH = [
    _grow("ns.s + ns.s"),
    _grow("ns.s ~ ns.s"),
    _grow("ns.s * 2"),
    _grow("ns.s | replace('a', 'aa')"),
    _grow("ns.s.replace('a', 'aa')"),
    _grow("ns.s.replace('', 'aa')"),
    _grow("[ns.s, ns.s] | join"),
    _grow("''.join([ns.s, ns.s])"),
    _grow("ns.s.join(['a', 'b', 'c'])"),
    _grow("ns.s.join('abcdefghijk')"),
    _grow("'%s%s' % (ns.s, ns.s)"),
    _grow("'%s%s' | format(ns.s, ns.s)"),
    _grow("'%(a)s%(a)s' % {'a': ns.s}"),
    _grow("'{0}{0}'.format(ns.s)"),
    _grow("'{a}{a}'.format(a=ns.s)"),
    _grow("ns.s | indent(ns.s | length, true)"),
    _grow("ns.s | indent(ns.s)"),
    _grow("ns.s | center(2 * (ns.s | length))"),
    _grow("ns.s.ljust(2 * (ns.s | length))"),
    _grow("ns.s.rjust(2 * (ns.s | length))"),
    _grow("ns.s.zfill(2 * (ns.s | length))"),
    _grow("ns.s | tojson ~ ns.s | tojson"),
    _grow("ns.s | tojson", "'\"'"),
    _grow("[ns.s] | string", '"\'"'),
    _grow("(ns.s | e)", "'&'"),
    _grow("ns.s + ns.s", "[1]"),
    _grow("ns.s * 3", "(1,)"),
    _grow("ns.s + (ns.s | list)", "[1]"),
    _grow("dict(ns.s, **{ns.s | length | string: 1})", "{}", 90000),
    _grow("ns.s + [i]", "[]", 90000),
    _grow("ns.s ~ i", "''", 90000),
    _grow("ns.s ~ '\U0001f600' * 1000", "''", 90000),
    _grow("[ns.s]", "[]", 90000),
    _grow("{'a': ns.s}", "{}", 90000),
    _grow("namespace(a=ns.s, b=1)", "1", 90000),
    _grow("ns.s | map('upper')", "['a']", 90000),
    _grow("ns.s | reverse", "['a']", 90000),
    _grow("(ns.s, 'x'.upper)", "1", 90000),
    _grow("[ns.s, nothing]", "1", 90000),
    _grow("[ns.s, joiner()]", "1", 90000),
    _loop("{% set ns.s = [ns.s, m] %}{% macro m() %}{{ ns.s }}{% endmacro %}", "{% set ns = namespace() %}"),
    _loop(
        "{% set before = ns.m %}{% macro m() %}{{ before }}{% endmacro %}{% set ns.m = m %}",
        "{% set ns = namespace() %}",
    ),
    "".join(f"{{% set x{i} = 'a' * 1000000 ~ {i} %}}" for i in range(200)),
    "".join(f"{{% macro m{i}() %}}{{{{ m{i + 1}() }}}}{{{{ m{i + 1}() }}}}{{% endmacro %}}" for i in range(60))
    + "{% macro m60() %}a{% endmacro %}{{ m0() }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(x) %}{{ f([x, x]) }}{% endmacro %}{{ f(1) }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% macro f() %}{{ caller() }}{{ caller() }}{% endmacro %}" + "{% call f() %}" * 40 + "x" + "{% endcall %}" * 40,
]

SINGLE = [
    "{{ ('%' ~ '0' * 40000) % 1 }}",
    "{% set a = 'x' * 1000000 %}{{ ('x' * 999999 ~ 'y') in ([a] * 100000) | reverse }}",
    "{{ ('a' * 1000000).rfind('b' ~ 'a' * 500000) }}",
    "{{ ('a' * 1000000).rsplit(sep='b' ~ 'a' * 500000) }}",
    "{{ ('a' * 1000000).rpartition('b' ~ 'a' * 500000) }}",
    "{{ 'a' * 10**9 }}",
    "{{ [1] * 10**9 }}",
    "{{ 'a'.ljust(10**9) }}",
    "{{ 'a'.center(10**9, 'é') }}",
    "{{ '7'.zfill(10**9) }}",
    "{{ 'a' | center(10**9) }}",
    "{{ 'a\nb' | indent(10**9) }}",
    "{{ 'a b' | wordwrap(10**9) }}{{ ('a ' * 100000) | wordwrap(1, wrapstring='x' * 1000) }}",
    "{{ [1] | batch(10**9, 1) | list }}",
    "{{ [1] | slice(10**9) | list }}",
    "{{ '%1000000000d' % 3 }}",
    "{{ '%.1000000000f' % 3 }}",
    "{{ '%*d' % (10**9, 3) }}",
    "{{ '%1000000000s' | format('a') }}",
    "{{ '{:1000000000}'.format(3) }}",
    "{{ '{:.1000000000f}'.format(3.5) }}",
    "{{ '{:{}}'.format(3, 10**9) }}",
    "{{ '{0.__class__}'.format(3) }}",
    "{{ 'a'.format_map({}) }}{{ 'a'.translate({97: 'b' * 9}) }}{{ 'a\t'.expandtabs(10**9) }}",
    "{{ 'a\t'.expandtabs(10**9) }}",
    "{{ 10**10**10 }}",
    "{{ 2**10000000 }}",
    "{{ (2**63 - 1) * (2**63 - 1) }}",
    "{{ 1 | round(10**10, 'ceil') }}",
    "{{ 1.5 | round(-10**9) }}{{ 1 | round(10**9) }}",
    "{{ (0).to_bytes(4 * 10**9, 'big') }}",
    "{{ (0).from_bytes('a', 'big') }}",
    "{{ ('f' * 1000000) | int(0, 16) // 3 }}",
    "{{ ('9' * 1000000) | int }}",
    "{{ ('9' * 1000000) | float }}",
    "{{ (' ' * 1000000 ~ '1') | int }}",
    "{{ 0x" + "f" * 200000 + " ** 200 }}",
    "{{ " + "9" * 200000 + " }}",
    "{{ 1e308 | int }}{{ 1e308 * 10 }}",
    "{{ strftime_now('%1000000000Y') }}",
    "{{ strftime_now('%Y' * 1000000) }}",
    "{{ range(10**9) | list }}",
    "{{ range(-10**18, 10**18, 3) | length }}",
    "{{ range(99999) | list | string | length }}{{ range(99999) | map('string') | list | length }}",
    "{{ [1] | tojson(indent=10**9) }}",
    "{{ [1, 2] | tojson(separators=('x' * 1000000, 'y')) }}",
    "{{ range(99999) | list | tojson(indent=30) | length }}",
    "{{ ('\U0001f600' * 1000000) | tojson(ensure_ascii=true) | length }}",
    "{{ ('\x01' * 1000000) | tojson | length }}",
    "{{ ('\U000e0001' * 500000) | list | string | length }}",
    "{{ [('\U000e0001' * 1000000)] | string | length }}",
    "{{ 'x' | attr('__class__') }}{{ [] | map(attribute='__class__.__mro__') | list }}",
    "{{ ('a.' * 100000) | length }}{{ [1] | map(attribute='a.' * 100000) | list }}",
]

REPEATED = [
    _loop("{{ x }}", "{% set x = ('a' * 1000000) | safe %}"),
    _loop("{% if 0.5 in range(99999) %}{% endif %}"),
    _big("x[1:]"),
    _big("x[::-1]"),
    _big("x[:-1]", "range(99999) | list"),
    _big("x | reverse"),
    _big("x | reverse | list", "range(99999) | list"),
    _big("x | upper"),
    _big("x.title()"),
    _big("x | title", "'a ' * 300000"),
    _big("x | trim"),
    _big("x.strip('b' * 100000 ~ 'a')"),
    _big("x | trim('b' * 100000)"),
    _big("x.split('a')"),
    _big("x.split()", "'a ' * 400000"),
    _big("x.splitlines()", "'\n' * 1000000"),
    _big("x.splitlines(true)", "'\u2028' * 1000000"),
    _big("x.rsplit('aa')"),
    _big("x.partition('b')"),
    _big("x.count('aab')"),
    _big("x.find('a' * 1000 ~ 'b')"),
    _big("('a' * 50000 ~ 'b') in x"),
    _big("x.isdigit() or x.islower() or x.isprintable()"),
    _big("x.endswith('b' * 1000000)"),
    _big("x | replace('b', 'c')"),
    _big("x | length", "'\u2028' * 1000000"),
    _big("x | list"),
    _big("x | list", "'é' * 500000"),
    _big("x | wordcount"),
    _big("x | wordwrap(10)"),
    _big("x | truncate(500000)"),
    _big("x | indent", "'a\n' * 400000"),
    _big("x | first ~ x | last"),
    _big("x | e", "'&' * 100000"),
    _big("x | safe"),
    _big("x | tojson"),
    _big("x | tojson", "range(99999) | list"),
    _big("x | string", "range(99999) | list"),
    _big("x | sort", "range(99999) | list"),
    _big("x | sort | first", "['a' * 200000 ~ 'b', 'a' * 200000 ~ 'c'] * 5000"),
    _big("x == y", "['a' * 200000 ~ 'b'] * 90000") + "{% set y = ['a' * 200000 ~ 'b'] * 90000 %}",
    "{% set x = ['a' * 200000 ~ 'b'] * 90000 %}{% set y = ['a' * 200000 ~ 'b'] * 90000 %}{{ x == y }}{{ x < y }}{{ x in [y] }}",
    _big("x | unique | list", "range(99999) | list"),
    _big("x | min", "['a' * 200000 ~ 'b', 'a' * 200000 ~ 'c'] * 5000"),
    _big("x | sum", "range(99999) | list"),
    _big("x | batch(1) | list", "range(99999) | list"),
    _big("x | map('string') | join('-')", "range(99999) | list"),
    _big("x | map('int') | map('float') | map('string') | list", "range(99999) | list"),
    _big("x | select('eq', 'a' * 100000) | list", "['a' * 100000] * 1000"),
    _big("x | dictsort", "dict(range(999) | map('string') | map('list') | select('eq', 3) | list)"),
    _big("[1] * 90000 + x", "[1] * 90000"),
    _big("x.index(2)", "[1] * 900000"),
    _big("x.count('b')", "['a' * 100000] * 900000"),
    _big("x.copy()", "[1] * 900000"),
    _big("x == x ~ 'b'"),
    _big("{x: 1}[x]", "'é' * 1000000"),
    _big("dict(a=x)[x ~ 'b']"),
    _big("x | default(x ~ x)"),
    _big("'{:>500000}'.format(x)"),
    _big("'%500000s' % 'a'"),
    _keep("x[1:]"),
    _keep("x | upper"),
    _keep("x.split('a')"),
    _keep("x | list"),
    _keep("x ~ i"),
    _keep("x.replace('a', 'b')"),
    _keep("range(9999) | list", "1"),
    _keep("'x' ~ i", "1"),
    _keep("i * 1000000", "1"),
    _keep("'abc\u2028'[i % 4]", "1"),
    _keep("dict(a=1, b=2)", "1"),
    _keep("x.items()", "messages[0]"),
    _keep("'a'.upper", "1"),
]

NESTED = [
    _NESTED + "{{ ns.s }}",
    _NESTED + "{{ ns.s | string | length }}",
    _NESTED + "{{ ns.s == [ns.s] }}",
    _NESTED + "{{ ns.s < ns.s }}",
    _NESTED + "{{ 3 in ns.s }}{{ ns.s in [1, 2] }}{{ ns.s in ns.s }}",
    _NESTED + "{{ ns.s | tojson }}",
    _NESTED + "{{ ns.s | sort }}",
    _NESTED + "{{ [ns.s, ns.s] | unique | list }}",
    _NESTED + "{{ [ns.s, ns.s] | max }}",
    _NESTED + "{{ ns.s.index(3) }}{{ ns.s.count(3) }}",
    _NESTED + "{{ {ns.s: 1} }}",
    _NESTED + "{{ {'a': 1}[ns.s] }}",
    _NESTED + "{{ {'a': 1}.get(ns.s) }}",
    _NESTED + "{{ '%s' % ns.s }}",
    _NESTED + "{{ '{}'.format(ns.s) }}",
    _NESTED + "{{ [ns.s] | join }}",
    _NESTED + "{{ ns.s | replace('a', 'b') }}{{ ns.s | upper }}",
    _NESTED + "{{ namespace(a=ns.s) }}",
    _NESTED + "{{ ns.s | sum(start=[]) | sum(start=[]) | length }}",
    _NESTED + "{{ raise_exception(ns.s) }}",
    _NESTED_KEYS + "{{ ns.s }}",
    _NESTED_KEYS + "{{ ns.s.values() }}",
    _NESTED_KEYS + "{{ ns.s | tojson(sort_keys=true) }}",
    _NESTED_KEYS + "{{ ns.s | dictsort(by='value') }}",
    _NESTED_KEYS + "{{ ns.s.items() | list == ns.s.items() | list }}",
    _NESTED.replace("[ns.s, ns.s]", "(ns.s, ns.s)") + "{{ {}[ns.s] }}{{ {ns.s: 1} }}",
    _loop("{% set ns.s = [ns.s] %}", "{% set ns = namespace(s=1) %}", "range(9000)") + "{{ ns.s }}",
    _loop("{% set ns.s = [ns.s] %}", "{% set ns = namespace(s=1) %}", "range(9000)") + "{{ ns.s == [ns.s] }}",
    _loop("{% set ns.s = [ns.s] %}", "{% set ns = namespace(s=1) %}", "range(9000)") + "{{ ns.s | tojson }}",
    "{% set ns = namespace() %}{% set ns.a = ns %}{% set ns.b = [ns] %}{{ ns.a.a.a.b == ns.b }}{{ ns.b }}",
]

SOURCES = [
    "{{ " + " < ".join("1" for _ in range(50000)) + " }}",
    "{{ " + " ~ ".join("x" for _ in range(50000)) + " }}",
    "{{ " + " + ".join("1" for _ in range(50000)) + " }}",
    "{{ " + "not " * 50000 + "1 }}",
    "{{ " + "-" * 50000 + "1 }}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ " + "[" * 50000 + "]" * 50000 + " }}",
    "{{ x" + ".a" * 50000 + " }}",
    "{{ x" + "|upper" * 40000 + " }}",
    "{{ messages" + "[0]" * 50000 + " }}",
    "{% if x %}" * 5000,
    "{% if 1 %}" * 400 + "a" + "{% endif %}" * 400,
    "{% if x %}" + "{% elif x %}" * 15000 + "{% endif %}",
    "{% for i in [1] %}" * 400 + "a" + "{% endfor %}" * 400,
    "{% for i in [1, 2] %}" * 60 + "a" + "{% endfor %}" * 60,
    "{% for i in [1] %}{{ loop.index }}" * 60 + "{{ a }}" * 20000 + "{% endfor %}" * 60,
    "{{ a }}" * 37000,
    "{% set a = 1 %}" * 17000,
    "".join(f"{{% if x %}}{{% set a{i} = 1 %}}{{% endif %}}" for i in range(5500)),
    "{#" * 130000,
    "{{" * 130000,
    "{% raw %}" * 29000,
    "{{ '" + "\\" * 200000,
    "{{ " + "1_" * 120000 + " }}",
    "{{ " + "'a'" * 80000 + " }}",
    "\n" * 262000,
    "{%- -%}" * 30000,
    " " * 200000 + "{%- if 1 %}" + " " * 60000,
    "x" * 262145,
    "{{ {" + ", ".join(f"{2**61 - 1} * {i}: 1" for i in range(9000)) + "} }}",
    "{{ dict(" + ", ".join(f"a{i}={i}" for i in range(9000)) + ") }}",
    "{% macro f(" + ", ".join(f"a{i}" for i in range(9000)) + ") %}{% endmacro %}" + _loop("{{ f(1) }}"),
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    "{% block x %}{{ super() }}{% endblock %}",
    "{% autoescape true %}x{% endautoescape %}",
]

ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__ }}{{ messages.__init__.__globals__ }}",
    "{{ range.__globals__ }}{{ range.__self__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ joiner.__init__.__globals__.os.popen('id') }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ lipsum.__globals__ }}",
    "{{ ''|attr('__class__') }}",
    "{{ ''['__class__'] }}",
    "{{ [].append.__self__.__class__ }}",
    "{{ x.__class__.__base__ }}",
    "{{ messages|map(attribute='__class__')|list }}",
    "{{ (1).__class__ }}{{ (1.5).hex.__self__ }}",
    "{% macro f() %}{% endmacro %}{{ f.__call__.__globals__ }}{{ f._func }}{{ f.call }}",
    "{% for i in [1] %}{{ loop.__class__ }}{{ loop._iterator }}{{ loop._undefined }}{% endfor %}",
    "{% set ns = namespace(__class__=1) %}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns.values }}",
    "{{ self.__init__ }}{{ self._TemplateReference__context }}",
    "{{ strftime_now.__globals__ }}{{ strftime_now('%c').__class__ }}",
    "{{ messages.pop() }}{{ messages.clear() }}{{ messages[0].update({}) }}",
    "{{ 'a'.encode() }}{{ 'a'.maketrans('a', 'b') }}",
    "{{ dict.fromkeys('abc') }}",
    "{{ caller() }}{{ varargs.x }}{{ kwargs.x }}",
    "{{ debug() }}",
    "{{ get_flashed_messages.__globals__ }}{{ config }}{{ request }}",
]

KINDS = {
    "guards": GUARD_NAMES,
    "loops": LOOPS,
    "growth": GROWTH,
    "single": SINGLE,
    "repeated": REPEATED,
    "nested": NESTED,
    "sources": SOURCES,
    "escapes": ESCAPES,
}
ALL = [(f"{kind}{index}", source) for kind, sources in KINDS.items() for index, source in enumerate(sources)]


def _status(name: str) -> float | None:
    """MB of this process, as Linux says."""
    path = Path("/proc/self/status")
    if not path.exists():
        return None
    return next(int(line.split()[1]) / 1024 for line in path.read_text().splitlines() if line.startswith(name))


def _render(source: str) -> dict:
    from llada_rt.errors import ChatTemplateError
    from llada_rt.text.chat_template import ChatTemplate

    before = _status("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    except OSError:
        before = None
    began, cpu = time.monotonic(), time.thread_time()
    try:
        text = ChatTemplate(source).render([{"role": "user", "content": "  hello \n"}])
        outcome, shown = "text", text[:200]
    except ChatTemplateError as error:
        outcome, shown = "error", str(error)
    seconds = time.monotonic() - began
    return {
        "seconds": seconds,
        "cpu": time.thread_time() - cpu,
        "mb": None if before is None else _status("VmHWM") - before,
        "outcome": outcome,
        "shown": shown,
    }


def _apart(source: str) -> dict:
    """The same in a child of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(LIMIT_S)
        try:
            os.write(writing, json.dumps(_render(source)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    return (
        json.loads(data) if data else {"outcome": "hang", "seconds": LIMIT_S, "cpu": LIMIT_S, "mb": None, "shown": ""}
    )


if __name__ == "__main__":
    import llada_rt.text.chat_template  # noqa: F401 - loaded once, before the children

    for source in json.load(sys.stdin):
        print(json.dumps(_apart(source)), flush=True)
