"""A JSON schema as a regular expression, so that an answer is always JSON that fits it.

Supported is what is regular and bounded: objects whose properties are all written, in order; arrays; strings with a
length, a format or a simple pattern; numbers; enum, const, anyOf; $ref to a definition that does not contain itself.
A keyword that is not known to be kept is refused by its name; annotations (title, description, default) say nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidRequestError
from ..excerpt import excerpt_of
from .errors import UnsupportedParameterError

MAX_DEPTH = 32
MAX_ALTERNATIVES = 256
MAX_CHARS = 4096  # of the expression; the engine takes no longer one

_CHARACTER = r'(?:[^"\\\x00-\x1f]|\\["\\/bfnrt])'
_INTEGER = r"(?:0|[1-9][0-9]{0,14})"
_NUMBER = rf"{_INTEGER}(?:\.[0-9]{{1,15}})?(?:[eE][+-]?[0-9]{{1,2}})?"
_DATE = r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z"
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
}
_ANNOTATIONS = {
    *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
    *("$schema", "$id", "$comment", "$defs", "definitions"),
}
_KEYWORDS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "integer": {"minimum", "maximum"},
    "number": {"minimum"},
    "boolean": set(),
    "null": set(),
}
# In a pattern: what could write a quote, a backslash or a control character into the string.
_UNSAFE_PATTERN = re.compile(r'["\x00-\x1f]|\\[^\w.+*?()\[\]{}|^$/-]|\\[SDWsnrtfvx0uUN]|\[\^|(?<!\\)\.|!-~')


def regex_of_schema(schema: object, param: str) -> str:
    """Raises UnsupportedParameterError for a keyword that is not kept, InvalidRequestError for what is no schema."""
    writer = _Writer(schema, param)
    regex = writer.regex(schema, "schema", 0, ())
    if len(regex) > MAX_CHARS:
        raise InvalidRequestError(
            f"{param}: the schema is too large: written as an expression it has {len(regex)} characters, expected at "
            f"most {MAX_CHARS}",
            param=param,
        )
    return regex


class _Writer:
    def __init__(self, root: object, param: str) -> None:
        self._root = root
        self._param = param
        self._written = 0

    def regex(self, schema: object, place: str, depth: int, open_refs: tuple[str, ...]) -> str:
        if depth > MAX_DEPTH:
            raise self._invalid(f"{place}: is nested too deeply, expected at most {MAX_DEPTH} levels")
        if not isinstance(schema, Mapping):
            raise self._invalid(f"{place}: expected a schema object, got {excerpt_of(schema, 40)}")
        written = self._of(schema, place, depth + 1, open_refs)
        self._written += len(written)
        if self._written > MAX_DEPTH * MAX_CHARS:  # references may double it at each level
            raise self._invalid(f"{place}: the schema is too large")
        return written

    def _of(self, schema: Mapping[str, Any], place: str, depth: int, open_refs: tuple[str, ...]) -> str:
        said = {key for key in schema if key not in _ANNOTATIONS}
        for alone in ("$ref", "anyOf", "const", "enum"):
            if alone in said:
                self._check_keys(said - ({"type"} if alone in ("const", "enum") else set()), {alone}, place)
                break
        if "$ref" in said:
            return self._referred(schema["$ref"], place, depth, open_refs)
        if "anyOf" in said:
            parts = self._list(schema["anyOf"], f"{place}.anyOf")
            return _any(
                self.regex(part, f"{place}.anyOf[{index}]", depth, open_refs) for index, part in enumerate(parts)
            )
        if "const" in said:
            return re.escape(_dumped(schema["const"]))
        if "enum" in said:
            return _any(re.escape(_dumped(value)) for value in self._list(schema["enum"], f"{place}.enum"))
        kind = schema.get("type")
        if kind is None:
            self._check_keys(said, set().union(*_KEYWORDS.values()), place)
        if isinstance(kind, list):
            kinds = self._list(kind, f"{place}.type")
            known = set().union(*(_KEYWORDS.get(str(each), set()) for each in kinds))
            self._check_keys(said, known | {"type"}, place)
            return _any(
                self._typed(
                    each,
                    {k: v for k, v in schema.items() if k in _KEYWORDS.get(str(each), ())},
                    place,
                    depth,
                    open_refs,
                )
                for each in kinds
            )
        return self._typed(kind, {key: schema[key] for key in said - {"type"}}, place, depth, open_refs)

    def _typed(
        self, kind: object, schema: Mapping[str, Any], place: str, depth: int, open_refs: tuple[str, ...]
    ) -> str:
        if not isinstance(kind, str) or kind not in _KEYWORDS:
            raise self._invalid(f"{place}.type: expected one of {', '.join(_KEYWORDS)}, got {excerpt_of(kind, 40)}")
        self._check_keys(set(schema), _KEYWORDS[kind], place)
        if kind == "object":
            return self._object(schema, place, depth, open_refs)
        if kind == "array":
            item = self.regex(schema.get("items", {"type": "null"}), f"{place}.items", depth, open_refs)
            if "items" not in schema:
                raise self._unsupported(f"{place}: an array without items is not supported")
            least, most = self._bounds(schema, "Items", place)
            return rf"\[{_repeated(item, least, most)}\]"
        if kind == "string":
            return f'"{self._string(schema, place)}"'
        if kind == "boolean":
            return "(?:true|false)"
        if kind == "null":
            return "null"
        return self._number(kind, schema, place)

    def _object(self, schema: Mapping[str, Any], place: str, depth: int, open_refs: tuple[str, ...]) -> str:
        properties = schema.get("properties", {})
        if not isinstance(properties, Mapping):
            raise self._invalid(f"{place}.properties: expected an object, got {excerpt_of(properties, 40)}")
        required = schema.get("required", [])
        missing = [name for name in required if name not in properties] if isinstance(required, list) else ["required"]
        if missing:
            raise self._invalid(f"{place}.required: names {excerpt_of(missing[0], 40)}, which is no property")
        parts = [
            re.escape(_dumped(name)) + ": " + self.regex(each, f"{place}.{str(name)[:40]}", depth, open_refs)
            for name, each in properties.items()
        ]
        return r"\{" + ", ".join(parts) + r"\}"

    def _string(self, schema: Mapping[str, Any], place: str) -> str:
        if len({"pattern", "format"} & set(schema)) + bool({"minLength", "maxLength"} & set(schema)) > 1:
            raise self._unsupported(f"{place}: pattern, format and a length cannot stand together")
        if "format" in schema:
            if schema["format"] not in _FORMATS:
                raise self._unsupported(
                    f"{place}.format: expected one of {', '.join(_FORMATS)}, got {excerpt_of(schema['format'], 40)}"
                )
            return _FORMATS[schema["format"]]
        if "pattern" in schema:
            pattern = schema["pattern"]
            if not isinstance(pattern, str) or not (pattern.startswith("^") and pattern.endswith("$")):
                raise self._unsupported(f"{place}.pattern: expected one of the whole text, ^...$")
            if _UNSAFE_PATTERN.search(pattern[1:-1]):
                raise self._unsupported(
                    f"{place}.pattern: expected characters and sets that name what they hold, without quotes and dots"
                )
            return f"(?:{pattern[1:-1]})"
        least, most = self._bounds(schema, "Length", place)
        if (least, most) == (0, None):
            return f"{_CHARACTER}*"
        return f"{_CHARACTER}{{{least},{'' if most is None else most}}}"

    def _number(self, kind: str, schema: Mapping[str, Any], place: str) -> str:
        least, most = schema.get("minimum"), schema.get("maximum")
        for name, value in (("minimum", least), ("maximum", most)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise self._invalid(f"{place}.{name}: expected a number, got {excerpt_of(value, 40)}")
        if kind == "integer" and isinstance(least, int) and isinstance(most, int):
            if not least <= most < least + MAX_ALTERNATIVES:
                raise self._unsupported(
                    f"{place}: expected minimum and maximum with at most {MAX_ALTERNATIVES} integers between them"
                )
            return _any(re.escape(str(value)) for value in range(least, most + 1))
        if most is not None or least not in (None, 0, 1) or (least == 1 and kind == "number"):
            raise self._unsupported(f"{place}: expected a minimum of 0 or none, or both ends for an integer")
        if kind == "integer":
            return "[1-9][0-9]{0,14}" if least == 1 else _INTEGER if least == 0 else f"-?{_INTEGER}"
        return _NUMBER if least == 0 else f"-?{_NUMBER}"

    def _referred(self, name: object, place: str, depth: int, open_refs: tuple[str, ...]) -> str:
        if not isinstance(name, str) or not name.startswith("#/"):
            raise self._unsupported(
                f"{place}.$ref: expected a place in this schema, #/$defs/..., got {excerpt_of(name)}"
            )
        if name in open_refs:
            raise self._unsupported(f"{place}.$ref: {excerpt_of(name)} contains itself, and no regular language does")
        found: Any = self._root
        for part in name[2:].split("/"):
            part = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or part not in found:
                raise self._invalid(f"{place}.$ref: there is no {excerpt_of(name)}")
            found = found[part]
        return self.regex(found, place, depth, (*open_refs, name))

    def _bounds(self, schema: Mapping[str, Any], what: str, place: str) -> tuple[int, int | None]:
        least, most = schema.get(f"min{what}", 0), schema.get(f"max{what}")
        for value in (least, most):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10_000):
                raise self._invalid(f"{place}: expected bounds from 0 to 9999, got {excerpt_of(value, 40)}")
        if most is not None and most < least:
            raise self._invalid(f"{place}: expected min{what} <= max{what}, got {least} and {most}")
        return least, most

    def _list(self, value: object, place: str) -> list[Any]:
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_ALTERNATIVES:
            raise self._invalid(f"{place}: expected a list of 1 to {MAX_ALTERNATIVES} entries")
        return value

    def _check_keys(self, said: set[str], known: set[str], place: str) -> None:
        if unknown := sorted(said - known):
            raise self._unsupported(f"{place}: the keyword {excerpt_of(unknown[0], 40)} is not supported there")

    def _invalid(self, message: str) -> InvalidRequestError:
        return InvalidRequestError(f"{self._param}: {message}", param=self._param)

    def _unsupported(self, message: str) -> UnsupportedParameterError:
        return UnsupportedParameterError(f"{self._param}: {message}", param=self._param)


def _any(parts: Any) -> str:
    return "(?:" + "|".join(parts) + ")"


def _dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _repeated(item: str, least: int, most: int | None) -> str:
    """So many items with commas between them."""
    if most == 0:
        return ""
    more = f"(?:, {item}){{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
    return f"{item}{more}" if least else f"(?:{item}{more})?"
