"""A file of requests, one in each line: plain text or JSON Lines. A line is read when the engine has room for it.

A bad line is a Refused, and the next line is read. The newline that ends a line (and a carriage return before it) is
not part of a prompt; all other white space is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..errors import ConfigError, InvalidRequestError, LladaRtError
from ..excerpt import excerpt, excerpt_of
from ..params import SamplingParams
from .options import parse_ids, parse_template

MAX_LINE_BYTES = 16 * 1024 * 1024
_PROMPT_KEYS = ("prompt", "prompt_token_ids", "messages", "chat_template_kwargs")
_INFILL_KEYS = ("segments", "open_end", *_PROMPT_KEYS)
_SCORE_KEYS = ("prompt", "answer", "mc_num", "seed", "cfg_scale", "noise")


@dataclass(frozen=True, slots=True)
class Generation:
    """To be answered or filled."""

    line: int  # from 1
    id: str | int
    prompt: Any
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class Scoring:
    """To be rated."""

    line: int
    id: str | int
    options: Mapping[str, Any]  # arguments of Engine.score


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that cannot be run, or whose request has failed."""

    line: int
    id: str | int
    error: LladaRtError


Ask = Generation | Scoring | Refused
# (line, id, text or JSON object) -> what is asked
Reader = Callable[[int, str | int, str | dict[str, Any]], Ask]


def open_input(name: str) -> BinaryIO:
    """The file, or standard input for "-"."""
    try:
        # An object of its own for standard input: a thread may still read it when the interpreter ends.
        return open(0, "rb", closefd=False) if name == "-" else open(name, "rb")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--input: {name[:200]}: cannot be read: {_reason(error)}", param="input") from error


def is_json_lines(name: str, form: str | None) -> bool:
    """Whether a file holds JSON Lines: as `form` says, else by its name."""
    return form == "jsonl" if form is not None else os.path.splitext(name)[1].lower() in (".jsonl", ".ndjson")


def read_asks(file: BinaryIO, read: Reader, *, is_json: bool) -> Iterator[Ask]:
    """What the lines ask for, in order; blank lines of JSON Lines are passed over. The file is closed at its end.

    Nobody else may close it: that would wait for a read under way, and there may be nothing to read.
    """
    for number, data in _lines(file):
        name: str | int = number
        try:
            text = _text(data, is_first=number == 1)
            if not is_json:
                yield read(number, number, text)
                continue
            if not text.strip():
                continue
            value = _object(text)
            name = _name(value.pop("id", None), number)
            yield read(number, name, value)
        except LladaRtError as error:
            yield Refused(number, name, error)


def asks_of(texts: Iterable[str], read: Reader) -> Iterator[Ask]:
    """The same of texts that were given one by one."""
    for number, text in enumerate(texts, 1):
        try:
            yield read(number, number, text)
        except LladaRtError as error:
            yield Refused(number, number, error)


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """(number, the line without its end); None for one that is too long."""
    number = 0
    while True:
        try:
            data: bytes | None = file.readline(MAX_LINE_BYTES + 2)
            if not data:
                file.close()
                return
            number += 1
            if not data.endswith(b"\n") and len(data) > MAX_LINE_BYTES:
                while data and not data.endswith(b"\n"):
                    data = file.readline(MAX_LINE_BYTES)
                data = None
        except OSError as error:
            raise ConfigError(f"--input: cannot be read: {_reason(error)}", param="input") from error
        yield number, data if data is None else data.removesuffix(b"\n").removesuffix(b"\r")


def _text(data: bytes | None, *, is_first: bool) -> str:
    if data is None:
        raise InvalidRequestError(f"expected a line of at most {MAX_LINE_BYTES} bytes, got a longer one", param="input")
    try:
        return data.decode("utf-8-sig" if is_first else "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"expected text in UTF-8, got the byte {data[error.start]:#04x} at {error.start}", param="input"
        ) from None


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"expected a JSON object, got none: {excerpt(str(error))}", param="input") from None
    if not isinstance(value, dict):
        raise InvalidRequestError(f"expected a JSON object, got {excerpt_of(text.strip())}", param="input")
    return value


def _name(value: object, number: int) -> str | int:
    if value is None:
        return number
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise InvalidRequestError(f"id: expected text or a whole number, got {excerpt_of(value)}", param="id")
    return value


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)[:200]


# ---------------------------------------------------------------- one line


def generation_reader(
    params: SamplingParams, *, is_chat: bool, is_ids: bool, variables: Mapping[str, Any] | None
) -> Reader:
    """A line is a prompt, or an object with one of prompt, prompt_token_ids, messages, and with options by their names.

    `is_chat`: a prompt that is text is a message of the user. `variables`: for the chat template.
    """

    def read(line: int, name: str | int, given: str | dict[str, Any]) -> Ask:
        if isinstance(given, str):
            given = {"prompt": _present(given, "a prompt")}
        if is_ids and isinstance(given.get("prompt"), str):
            given["prompt"] = parse_ids(given["prompt"])
        prompt = {key: given.pop(key) for key in _PROMPT_KEYS if key in given}
        return Generation(line, name, prompt_of(prompt, is_chat=is_chat, variables=variables), _over(params, given))

    return read


def prompt_of(prompt: dict[str, Any], *, is_chat: bool, variables: Mapping[str, Any] | None) -> dict[str, Any]:
    """The prompt as the engine takes it."""
    if isinstance(prompt.get("prompt"), list) and "prompt_token_ids" not in prompt:
        prompt["prompt_token_ids"] = prompt.pop("prompt")
    if is_chat and isinstance(prompt.get("prompt"), str) and "messages" not in prompt:
        prompt = {**prompt, "messages": [{"role": "user", "content": prompt["prompt"]}]}
        del prompt["prompt"]
    own = prompt.get("chat_template_kwargs")
    if variables and "messages" in prompt and (own is None or isinstance(own, dict)):
        prompt["chat_template_kwargs"] = {**variables, **(own or {})}
    return prompt


def infill_reader(params: SamplingParams) -> Reader:
    """A line is a template, or an object with text (a template) or segments."""

    def read(line: int, name: str | int, given: str | dict[str, Any]) -> Ask:
        if isinstance(given, str):
            given = {"text": _present(given, "a template")}
        if ("text" in given) == ("segments" in given):
            raise InvalidRequestError("expected one of text and segments, got both or none", param="segments")
        prompt = {key: given.pop(key) for key in _INFILL_KEYS if key in given}
        if "text" in given:
            text = given.pop("text")
            if not isinstance(text, str):
                raise InvalidRequestError(f"text: expected text with holes, got {type(text).__name__}", param="text")
            prompt["segments"] = parse_template(text)
        return Generation(line, name, prompt, _over(params, given))

    return read


def score_reader(options: Mapping[str, Any]) -> Reader:
    """A line is an object with prompt and answer, both text or token ids."""

    def read(line: int, name: str | int, given: str | dict[str, Any]) -> Ask:
        if isinstance(given, str):
            raise InvalidRequestError("expected an object with prompt and answer, got text", param="input")
        strange = [key for key in given if key not in _SCORE_KEYS]
        missing = [key for key in ("prompt", "answer") if key not in given]
        if strange or missing:
            raise InvalidRequestError(
                f"expected prompt and answer, and perhaps {', '.join(_SCORE_KEYS[2:])}, got "
                + (", ".join(map(repr, (key[:40] for key in given))) or "nothing"),
                param=(strange or missing)[0][:40],
            )
        return Scoring(line, name, {**options, **given})

    return read


def _present(text: str, what: str) -> str:
    if not text:
        raise InvalidRequestError(f"expected {what}, got an empty line", param="prompt")
    return text


def _over(params: SamplingParams, given: dict[str, Any]) -> SamplingParams:
    """What a line says goes before what the command line says."""
    return params.replace(**given) if given else params
