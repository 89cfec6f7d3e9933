"""What `help` tells: the options of a dataclass among the arguments of a class, arguments that two methods share."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

Method = TypeVar("Method", bound=Callable[..., Any])
SECTION = re.compile(r"^(?:Args|Attributes|Returns|Raises):$", re.MULTILINE)
ARGS = re.compile(r"^Args:\n(?: .*\n)*", re.MULTILINE)  # a whole section


def with_options(doc: str | None, kind: type) -> str:
    """A docstring, and the options that are fields of the dataclass `kind` as the last of its `Args:`.

    Each option has its type, meaning, default and other names.
    """
    hints = get_type_hints(kind)
    lines = []
    for option in dataclasses.fields(kind):
        if "help" not in option.metadata:
            continue
        hint: Any = hints[option.name]
        shown = " | ".join(map(repr, get_args(hint))) if get_origin(hint) is Literal else str(option.type)
        aliases = option.metadata.get("aliases", ())
        also = f" Also {', '.join(aliases)}." if aliases else ""
        lines += _wrapped(f"{option.name} ({shown}): {option.metadata['help']} Default: {option.default!r}.{also}")
    text = inspect.cleandoc(doc or "") + "\n"
    options = "\n".join(lines) + "\n"
    if args := ARGS.search(text):
        return (text[: args.end()] + options + text[args.end() :]).rstrip()
    section = SECTION.search(text)
    at = section.start() if section else len(text)
    return f"{text[:at].rstrip()}\n\nArgs:\n{options}\n{text[at:]}".rstrip()


def with_sections_of(other: Callable[..., Any]) -> Callable[[Method], Method]:
    """A method whose docstring goes on with `Args:`, `Returns:`, `Raises:` of another one with the same arguments."""
    doc = inspect.cleandoc(other.__doc__ or "")
    begin = SECTION.search(doc)

    def decorate(method: Method) -> Method:
        if begin is not None and method.__doc__:  # python -OO has neither
            method.__doc__ = f"{inspect.cleandoc(method.__doc__)}\n\n{doc[begin.start() :]}"
        return method

    return decorate


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 116, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False)
