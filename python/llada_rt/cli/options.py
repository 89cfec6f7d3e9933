"""Command-line options, made from the fields of SamplingParams and EngineConfig.

The command line has forms of its own for some Python values: templates with holes, lists of ids.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import json
import re
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from ..config import EngineConfig
from ..errors import InvalidRequestError
from ..excerpt import excerpt, excerpt_of
from ..log import LogLevel, on_stderr
from ..options import foreign, renamed
from ..params import ALIASES, SamplingParams
from ..server.settings import ServerSettings
from .console import say


def _flag_type(hint: Any) -> Any:
    """The type of a flag that may be left out: `int | None` -> Optional[int], a Literal -> an Enum of its words, a
    tuple -> a list (the flag may be given more than once).
    """
    if get_origin(hint) in (Union, types.UnionType):
        parts = [part for part in get_args(hint) if part is not type(None)]
        hint = next((part for part in parts if get_origin(part) is tuple), parts[0])  # one, or several of them
    if get_origin(hint) is Literal:
        members = {word: word for word in get_args(hint)}
        return enum.Enum("Choice", members) | None  # type: ignore[operator]
    if get_origin(hint) is tuple:
        hint = list[get_args(hint)[0]]  # type: ignore[misc]
    return hint | None


def _word(name: str) -> str:
    """cpu_isa -> --cpu-isa."""
    return "--" + name.replace("_", "-")


def _flags(
    kind: type, panel: str, skip: tuple[str, ...] = (), *, shows_defaults: bool = False
) -> dict[str, inspect.Parameter]:
    hints = get_type_hints(kind)
    flags = {}
    for spec in dataclasses.fields(kind):
        if spec.name in skip:
            continue
        word = _word(spec.name)
        if hints[spec.name] in (bool, bool | None):
            word += "/--no-" + word[2:]
        hint = str if spec.metadata.get("is_size") else hints[spec.name]
        default = str(spec.default).lower() if isinstance(spec.default, bool) else str(spec.default)
        shown: bool | str = default if shows_defaults and spec.default not in (None, (), "") else False
        option = typer.Option(word, help=spec.metadata["help"], rich_help_panel=panel, show_default=shown)
        flags[spec.name] = inspect.Parameter(
            spec.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[_flag_type(hint), option],
        )
    return flags


def _old_flags(flags: Mapping[str, inspect.Parameter]) -> dict[str, inspect.Parameter]:
    """Flags under the names of before, which help does not show."""
    return {
        old: flags[new].replace(name=old, annotation=Annotated[str | None, typer.Option(_word(old), hidden=True)])
        for old, new in renamed.ENGINE.items()
    }


ENGINE_FLAGS = _flags(EngineConfig, "Engine", skip=("model_dir", "stream"))
ENGINE_FLAGS |= _old_flags(ENGINE_FLAGS)
SERVER_FLAGS = _flags(ServerSettings, "Server", shows_defaults=True)
# What a command prints is chosen by --json, so return_tokens has its use there alone.
PARAMS_FLAGS = _flags(SamplingParams, "Decoding (by default as the model's generation_config.json says)")


LOG_FLAG = inspect.Parameter(
    "log_level",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        _flag_type(LogLevel),
        typer.Option("--log-level", help="What is told on stderr beside errors.", show_default="warning"),
    ],
)


def _fields_as_flags(kind: type) -> dict[str, inspect.Parameter]:
    """The flags of a dataclass whose fields are annotated, and have defaults, as the parameters of a command have."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        spec.name: inspect.Parameter(
            spec.name, inspect.Parameter.KEYWORD_ONLY, default=spec.default, annotation=hints[spec.name]
        )
        for spec in dataclasses.fields(kind)
    }


def with_flags(
    **groups: Mapping[str, inspect.Parameter] | type,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the flags of each group. Those of a dataclass arrive as one object of it; of other groups those
    that were set, as one dict. While it runs, what the package logs is told on stderr, from --log-level on.
    """
    flags_of = {name: _fields_as_flags(flags) if isinstance(flags, type) else flags for name, flags in groups.items()}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = {
            name: parameter
            for name, parameter in inspect.signature(command, eval_str=True).parameters.items()
            if name not in flags_of
        }
        every = own | {LOG_FLAG.name: LOG_FLAG}
        every |= {name: flag for flags in flags_of.values() for name, flag in flags.items()}

        @functools.wraps(command)
        def run(**given: Any) -> None:
            level = given.pop(LOG_FLAG.name)
            arguments = {name: given[name] for name in own}
            for group, flags in flags_of.items():
                kind = groups[group]
                if isinstance(kind, type):
                    arguments[group] = kind(**{name: given[name] for name in flags})
                    continue
                values = {name: given[name] for name in flags if given[name] is not None}
                plain = {k: v.value if isinstance(v, enum.Enum) else v for k, v in values.items()}
                arguments[group] = renamed.by_new_names(plain, _say_renamed)
            with on_stderr("warning" if level is None else level.value):
                command(**arguments)

        run.__signature__ = inspect.Signature(list(every.values()))  # type: ignore[attr-defined]
        run.__annotations__ = {name: parameter.annotation for name, parameter in every.items()}
        return run

    return decorate


def _say_renamed(old: str, new: str) -> None:
    say(f"warning: {renamed.renamed_text(_word(old), _word(new))}")


def foreign_hint(flag: str | None) -> str:
    """What to say of a flag that other engines know, "--top-p"; nothing of the rest."""
    name = (flag or "").lstrip("-").replace("-", "_")
    said = foreign.PARAMS.get(name) or foreign.ENGINE.get(name)
    if name in ALIASES:
        said = f"called {_word(ALIASES[name])} here"
    return f"hint: {flag} is {said}" if said else ""


def params_over(defaults: SamplingParams, given: Mapping[str, Any]) -> SamplingParams:
    """The model's defaults with the flags that were set."""
    return SamplingParams(**given).over(defaults)


def parse_template(text: str) -> list[str | int]:
    """ "床前__光[MASK:3]" -> ["床前", 2, "光", 3]. A backslash keeps the next underscore or bracket as it is."""
    segments: list[str | int] = []
    for match in re.finditer(r"\\([_\[\\])|(_+)|\[MASK(?::(\d{1,9}))?\]|(.)", text, re.DOTALL):
        escaped, run, count, plain = match.groups()
        fixed = escaped or plain
        if fixed is None:
            holes = len(run) if run else int(count or 1)
            if segments and isinstance(segments[-1], int) and holes:
                segments[-1] += holes
            else:
                segments.append(holes)
        elif segments and isinstance(segments[-1], str):
            segments[-1] += fixed
        else:
            segments.append(fixed)
    return segments


def parse_ids(text: str) -> list[int]:
    """ "3, 14, 15" or "3 14 15" -> [3, 14, 15]."""
    words = text.replace(",", " ").split()
    for word in words:
        if not re.fullmatch(r"-?\d{1,18}", word):
            raise InvalidRequestError(
                f"--ids: expected token ids separated by commas, got {excerpt_of(word)}", param="ids"
            )
    return [int(word) for word in words]


def parse_variables(text: str | None) -> dict[str, Any] | None:
    """What --chat-template-kwargs says, a JSON object."""
    if text is None:
        return None
    name = "chat_template_kwargs"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(
            f"{name}: expected a JSON object, got none: {excerpt(str(error))}", param=name
        ) from None
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{name}: expected a JSON object, got {excerpt_of(text)}", param=name)
    return value
