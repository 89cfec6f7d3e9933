"""JSON schemas as expressions: what matches is JSON that fits the schema, and what is not kept is refused by name."""

import itertools
import json
import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from llada_rt.errors import InvalidRequestError
from llada_rt.planning.expression import Graph, parse_regex
from llada_rt.server.errors import UnsupportedParameterError
from llada_rt.server.json_schema import regex_of_schema


def regex(schema):
    return regex_of_schema(schema, "response_format")


@pytest.mark.parametrize(
    ("schema", "fitting", "others"),
    [
        ({"type": "boolean"}, ["true", "false"], ["True", "1", ""]),
        ({"type": "null"}, ["null"], ["None"]),
        ({"type": "integer"}, ["0", "-7", "120"], ["01", "1.0", "+1", "1e3", "-"]),
        ({"type": "integer", "minimum": 0}, ["0", "12"], ["-1"]),
        ({"type": "integer", "minimum": 1}, ["1", "12"], ["0", "-1"]),
        ({"type": "integer", "minimum": -1, "maximum": 2}, ["-1", "0", "2"], ["-2", "3"]),
        ({"type": "number"}, ["0", "-0.5", "1e3", "1.25E-10"], [".5", "1.", "01.5", "NaN"]),
        ({"type": "string"}, ['""', '"ab"', '"床"', r'"\n\"\\"'], ["ab", '"a', '"\n"', r'"\x"']),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', r'"\n\t"'], ['"a"', '"abcd"']),
        ({"type": "string", "minLength": 2}, ['"abcdef"'], ['"a"']),
        ({"type": "string", "pattern": "^[0-9]{2}-[a-z]+$"}, ['"12-ab"'], ['"1-ab"', "12-ab"]),
        ({"type": "string", "format": "date"}, ['"2026-11-27"'], ['"2026-13-01"', '"2026-1-1"']),
        ({"type": "string", "format": "date-time"}, ['"2026-11-27T23:59:59Z"'], ['"2026-11-27"']),
        ({"type": "string", "format": "uuid"}, ['"01234567-89ab-cdef-0123-456789abcdef"'], ['"0"']),
        ({"enum": ["a", 1, None, "b.c", {"x": [1]}]}, ['"a"', "1", "null", '"b.c"', '{"x": [1]}'], ["a", '"bxc"']),
        ({"type": "string", "enum": ["a"]}, ['"a"'], ['"b"']),
        ({"const": "a*"}, ['"a*"'], ['"aa"']),
        ({"type": ["integer", "null"], "minimum": 0}, ["3", "null"], ["-3", "true"]),
        ({"anyOf": [{"type": "boolean"}, {"const": 3}]}, ["true", "3"], ["4"]),
        ({"type": "array", "items": {"type": "boolean"}}, ["[]", "[true]", "[true, false]"], ["[true,]", "[1]"]),
        (
            {"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 3},
            ["[1, 1]", "[1, 1, 1]"],
            ["[1]", "[]"],
        ),
        ({"type": "array", "items": {"const": 1}, "maxItems": 1}, ["[]", "[1]"], ["[1, 1]"]),
        ({"type": "array", "items": {"const": 1}, "maxItems": 0}, ["[]"], ["[1]"]),
        ({"type": "object"}, ["{}"], ["[]"]),
        (
            {
                "$schema": "x",
                "title": "t",
                "type": "object",
                "properties": {"a": {"type": "boolean", "description": "d"}, 'b"': {"$ref": "#/$defs/n"}},
                "required": ["a"],
                "additionalProperties": False,
                "$defs": {"n": {"type": "integer"}},
            },
            ['{"a": true, "b\\"": 3}'],
            ['{"a": true}', '{"b\\"": 3, "a": true}', '{"a": true, "b\\"": 3, "c": 1}'],
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_matches(schema, fitting, others):
    pattern = regex(schema)
    for text in fitting:
        assert re.fullmatch(pattern, text), (pattern, text)
        json.loads(text)
    for text in others:
        assert not re.fullmatch(pattern, text), (pattern, text)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "patternProperties": {}},
        {"type": "object", "properties": {"a": {"type": "string", "contentEncoding": "base64"}}},
        {"type": "integer", "multipleOf": 3},
        {"type": "integer", "minimum": 5},
        {"type": "integer", "minimum": 0, "maximum": 10**10},
        {"type": "number", "maximum": 3},
        {"type": "string", "format": "email"},
        {"type": "string", "pattern": "a"},
        {"type": "string", "pattern": '^"$'},
        {"type": "string", "pattern": "^.$"},
        {"type": "string", "pattern": "^[^a]$"},
        {"type": "string", "pattern": r"^\S$"},
        {"type": "string", "pattern": r"^\x22$"},
        {"type": "string", "pattern": "^[!-~]$"},
        {"type": "string", "pattern": "^[a]$", "maxLength": 3},
        {"type": "array"},
        {"type": "array", "items": {"type": "null"}, "uniqueItems": True},
        {"oneOf": [{"type": "null"}]},
        {"allOf": [{"type": "null"}]},
        {"anyOf": [{"type": "null"}], "type": "null"},
        {"$ref": "https://a.example/schema"},
        {"$ref": "#"},
        {
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/t"}},
            "$defs": {"t": {"anyOf": [{"$ref": "#/$defs/t"}]}},
        },
        {"type": "null", "not": {}},
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_not_kept_is_refused(schema):
    with pytest.raises(UnsupportedParameterError, match=r"^response_format: schema"):
        regex(schema)


@pytest.mark.parametrize(
    "schema",
    [
        None,
        [],
        True,
        {},
        {"type": "text"},
        {"type": 5},
        {"type": []},
        {"type": ["null", {}]},
        {"enum": []},
        {"enum": [0] * 257},
        {"anyOf": {}},
        {"type": "object", "properties": []},
        {"type": "object", "required": ["a"]},
        {"type": "object", "required": 5},
        {"type": "string", "minLength": -1},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "array", "items": {"type": "null"}, "minItems": 10**9},
        {"type": "integer", "minimum": "a"},
        {"$ref": "#/$defs/nothing"},
        {"const": "a" * 5000},
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_no_schema(schema):
    with pytest.raises(InvalidRequestError, match="response_format: "):
        regex(schema)


def test_a_deep_or_a_doubling_schema_is_refused_at_once():
    deep = {"type": "null"}
    for _ in range(100):
        deep = {"type": "array", "items": deep}
    with pytest.raises(InvalidRequestError, match="nested too deeply"):
        regex(deep)
    names = [f"d{index}" for index in range(15)]
    doubling = {
        name: {"anyOf": [{"$ref": f"#/$defs/{after}"}, {"$ref": f"#/$defs/{after}"}]}
        for name, after in itertools.pairwise(names)
    }
    with pytest.raises(InvalidRequestError, match="too large"):
        regex({"$ref": "#/$defs/d0", "$defs": doubling | {"d14": {"type": "integer"}}})


# ---------------------------------------------------------------- random schemas


def schemas():
    words = some.text(string.ascii_letters + '"\\.*床', max_size=4)
    leaves = some.one_of(
        some.sampled_from([{"type": name} for name in ("boolean", "null", "integer", "number", "string")]),
        some.lists(some.one_of(words, some.integers(), some.none(), some.booleans()), min_size=1, max_size=3).map(
            lambda values: {"enum": values}
        ),
        some.integers(0, 3).map(lambda most: {"type": "string", "maxLength": most}),
    )

    def larger(inner):
        return some.one_of(
            some.dictionaries(words, inner, max_size=3).map(lambda each: {"type": "object", "properties": each}),
            inner.map(lambda each: {"type": "array", "items": each, "minItems": 1, "maxItems": 2}),
            some.lists(inner, min_size=1, max_size=2).map(lambda each: {"anyOf": each}),
        )

    return some.recursive(leaves, larger, max_leaves=6)


def fits(value, schema):
    """Whether a value fits one of these schemas."""
    if "anyOf" in schema:
        return any(fits(value, each) for each in schema["anyOf"])
    if "enum" in schema:
        return any(value == each and type(value) is type(each) for each in schema["enum"])
    kind = schema["type"]
    if kind == "object":
        properties = schema["properties"]
        return (
            isinstance(value, dict)
            and list(value) == list(properties)
            and all(fits(value[name], each) for name, each in properties.items())
        )
    if kind == "array":
        return isinstance(value, list) and 1 <= len(value) <= 2 and all(fits(each, schema["items"]) for each in value)
    if kind == "string":
        return isinstance(value, str) and len(value) <= schema.get("maxLength", 10**9)
    kinds = {"boolean": bool, "null": type(None), "integer": int, "number": (int, float)}
    return isinstance(value, kinds[kind]) and (kind in ("boolean", "null") or not isinstance(value, bool))


@settings(max_examples=300, deadline=None)
@given(schemas(), some.data())
def test_whatever_matches_fits_the_schema(schema, data):
    try:
        pattern = regex(schema)
        Graph(parse_regex(pattern))  # the engine takes it
    except InvalidRequestError as error:
        if "too large" not in str(error):
            raise
        return
    text = data.draw(some.from_regex(pattern, fullmatch=True))
    assert fits(json.loads(text), schema), (pattern, text)
