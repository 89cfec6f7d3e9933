"""Reading of bodies: JSON as strictly as it is written down, and what a pydantic model found wrong as an error of ours.

FastAPI's own reading takes NaN and the last of two equal names. Here the body is read first, and refused where two
readers could read two things.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from ..errors import InvalidRequestError
from ..excerpt import excerpt, excerpt_of
from .errors import MalformedBodyError, UnknownParameterError

MAX_DEPTH = 64
_FORMS = {"str", "int", "float", "bool"}
# Strings are passed over, one without an end to the end of the body: whatever is written, each character is read once.
_BRACKETS = re.compile(r'[\[\]{}]|"(?:[^"\\]++|\\.?)*+"?', re.DOTALL)


class StrictRoute(APIRoute):
    """A path whose bodies are read here."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def run(request: Request) -> Response:
            if request.method == "POST":
                request = _Read(request.scope, request.receive)
                request.content = parse(await request.body())
            return await handle(request)

        return run


class _Read(Request):
    content: Any = None

    async def json(self) -> Any:
        return self.content


def parse(data: bytes) -> Any:
    """Raises MalformedBodyError for what is no JSON, or is nested too deeply."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedBodyError(f"the body is no UTF-8: byte {error.start}") from None
    _check_depth(text)
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except MalformedBodyError:
        raise
    except json.JSONDecodeError as error:
        raise MalformedBodyError(f"the body is no JSON: {error.msg} at character {error.pos}") from None
    except ValueError:  # of an integer with thousands of digits
        raise MalformedBodyError("the body holds a number that is too long") from None
    if not isinstance(value, dict):
        raise MalformedBodyError(f"the body: expected a JSON object, got {type(value).__name__}")
    return value


def _check_depth(text: str) -> None:
    """What is too deep is refused before anything is built of it."""
    depth = 0
    for match in _BRACKETS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if depth > MAX_DEPTH:
            raise MalformedBodyError(f"the body is nested too deeply: expected at most {MAX_DEPTH} levels")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise MalformedBodyError(f"the body gives {excerpt_of(twice, 40)} twice", param=excerpt(twice, 40))
    return found


def _constant(word: str) -> Any:
    raise MalformedBodyError(f"the body is no JSON: {word} is no number")


def error_of(error: RequestValidationError) -> InvalidRequestError:
    """The first of pydantic's findings. What came is shown only if it is short: a body may be a prompt."""
    found = error.errors()[0]
    name = excerpt(".".join(_names(found["loc"][1:])) or "body", 80)
    if found["type"] == "extra_forbidden":
        return UnknownParameterError(f"unknown field {name!r}", param=name)
    if found["type"] == "missing":
        return InvalidRequestError(f"{name}: is missing", param=name)
    given = excerpt_of(found.get("input"), 40)
    same = [each for each in error.errors() if each["loc"][1:2] == found["loc"][1:2]]  # all forms that it might have
    said = " or ".join(dict.fromkeys(each["msg"][0].lower() + each["msg"][1:] for each in same[:4]))
    return InvalidRequestError(f"{name}: {said}, got {given}", param=name)


def _names(place: Sequence[Any]) -> list[str]:
    """Names and indices; which form of several was tried is left out."""
    return [str(part) for part in place if isinstance(part, int) or (part not in _FORMS and "[" not in part)]
