"""ServerSettings: how a server listens and what it bears. Each is written once, here, and may be said in three places:
a flag (--max-body-bytes), a variable of the environment (LLADA_RT_MAX_BODY_BYTES), a line of a TOML file
(max_body_bytes = 1000). A flag goes before a variable, and a variable before the file. The options of the engine and
`model` may be said in the same places.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import tomllib
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..config import ENGINE_FIELDS, EngineConfig
from ..errors import ConfigError
from ..excerpt import excerpt, excerpt_of
from ..log import logger

PREFIX = "LLADA_RT_"
MAX_CONFIG_BYTES = 1_000_000
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_ENGINE = {name for name in ENGINE_FIELDS if name != "stream"}  # a stream is an object of the process


def _option(default: Any, text: str, *, least: float | None = None, most: float | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, "least": least, "most": most})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Settings of `llada-rt serve`. Frozen and checked on construction: ConfigError."""

    host: str = _option("127.0.0.1", "Address to listen on; anything but loopback should have an API key.")
    port: int = _option(8000, "Port to listen on; 0: a free one, which is told on stdout.", least=0, most=65535)
    uds: str | None = _option(None, "Path of a Unix domain socket to listen on, in place of host and port.")
    served_model_name: tuple[str, ...] = _option(
        (), "Name of the model in requests and answers; several may be given. By default that of its folder."
    )
    api_key: tuple[str, ...] = _option(
        (), "Key that requests must bring; several may be given. Others see it in a list of processes."
    )
    api_key_file: str | None = _option(None, "File of such keys, one a line; read again on SIGHUP.")
    metrics_open: bool = _option(False, "Let /metrics be read without a key.")
    max_body_bytes: int = _option(2_000_000, "Size of a request's body.", least=1, most=2**31 - 1)
    max_header_bytes: int = _option(65_536, "Size of a request's line and headers.", least=512, most=2**24)
    max_concurrent_requests: int = _option(
        1024, "Requests that are open at a time, waiting ones among them.", least=1, most=2**20
    )
    max_n: int = _option(16, "Samples of one prompt.", least=1, most=1024)
    max_prompts: int = _option(64, "Prompts of one completion.", least=1, most=65_536)
    max_draws: int = _option(1024, "Draws of one score.", least=1, most=1_000_000)
    max_unread_bytes: int = _option(
        1_000_000,
        "Bytes of a stream that a client which takes nothing may leave before it is cut.",
        least=1,
        most=2**31 - 1,
    )
    request_timeout: float = _option(600.0, "Seconds that a request may take, waiting and running.", least=0.01)
    header_timeout: float = _option(10.0, "Seconds in which a request's headers must come.", least=0.01)
    body_timeout: float = _option(30.0, "Seconds in which a request's body must come.", least=0.01)
    write_timeout: float = _option(30.0, "Seconds in which a client must take a piece of its answer.", least=0.01)
    shutdown_timeout: float = _option(
        30.0, "Seconds that requests have to end after SIGTERM before they are aborted.", least=0.0
    )
    stuck_after: float = _option(
        60.0, "Seconds without a step, while there is work, after which the server says it is not ready.", least=0.01
    )
    ping_interval: float = _option(15.0, "Seconds of silence after which a stream says that it lives.", least=0.01)
    unknown_fields: Literal["refuse", "ignore"] = _option(
        "refuse", "What becomes of fields of a body that nobody knows; ignored ones are told in X-Ignored-Params."
    )
    cors_origins: tuple[str, ...] = _option((), "Origins of pages that may call the server from a browser.")
    root_path: str = _option("", "Path under which a proxy shows the server.")
    ssl_certfile: str | None = _option(None, "Certificate for TLS.")
    ssl_keyfile: str | None = _option(None, "Private key of the certificate.")
    page: bool = _option(True, "Serve the page that shows a canvas being filled, at /.")
    docs: bool = _option(True, "Serve /openapi.json.")
    log_format: Literal["text", "json"] = _option("text", "How log lines are written.")

    def __post_init__(self) -> None:
        hints = get_type_hints(ServerSettings)
        for spec in dataclasses.fields(self):
            value = _checked(spec.name, getattr(self, spec.name), hints[spec.name], spec.metadata)
            object.__setattr__(self, spec.name, value)
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ConfigError("ssl_certfile, ssl_keyfile: expected both or none", param="ssl_certfile")
        if self.root_path and not re.fullmatch(r"(/[^/?#\s]+)+", self.root_path):
            raise ConfigError(
                f"root_path: expected a path like /llada without a / at its end, got {excerpt_of(self.root_path)}",
                param="root_path",
            )
        for key in self.api_key:
            check_key(key, "api_key")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.uds is not None or self.host in ("localhost", "::1") or self.host.startswith("127.")


SETTINGS_FIELDS = {spec.name: spec for spec in dataclasses.fields(ServerSettings)}


def check_key(key: str, name: str) -> None:
    """Raises ConfigError for what no header can hold as a key, and for one that is easily guessed. Never shows it."""
    if not re.fullmatch(r"[!-~]{8,1024}", key):
        raise ConfigError(
            f"{name}: expected keys of 8 to 1024 visible ASCII characters, got one of {len(key)} characters", param=name
        )


@dataclass(frozen=True, slots=True)
class Chosen:
    """What flags, environment and file say together."""

    model: str | None
    engine: Mapping[str, Any]  # options of Engine
    server: ServerSettings


def choose(flags: Mapping[str, Any], environment: Mapping[str, str], config: str | None = None) -> Chosen:
    """`flags`: those that were set, by name. `config`: path of a TOML file; by default what LLADA_RT_CONFIG names.

    Raises ConfigError for a name nobody knows and for a value that does not fit.
    """
    from_environment = _from_environment(environment)
    named = from_environment.pop("config", None)
    path = config if config is not None else named
    said = (_from_file(path) if path is not None else {}) | from_environment | dict(flags)
    server = {name: value for name, value in said.items() if name in SETTINGS_FIELDS}
    engine = {name: value for name, value in said.items() if name in _ENGINE}
    return Chosen(said.get("model"), engine, ServerSettings(**server))


def _known() -> dict[str, tuple[Any, bool]]:
    """Type of each name that may be said, and whether it is a size in bytes."""
    hints = get_type_hints(ServerSettings) | {"model": str | None}
    engine = get_type_hints(EngineConfig)
    return {name: (hint, False) for name, hint in hints.items()} | {
        name: (engine[name], bool(ENGINE_FIELDS[name].metadata.get("is_size"))) for name in _ENGINE
    }


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    known = _known() | {"config": (str, False)}
    said = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in known:  # another program's, perhaps
            logger.warning("%s in the environment is no setting of the server", excerpt(variable))
            continue
        hint, is_size = known[name]
        said[name] = text if is_size else _parsed(variable, text, hint)
    return said


def _from_file(path: str) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"config: {path} cannot be read: {error.strerror}", param="config") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"config: {path} is too large: expected at most {MAX_CONFIG_BYTES} bytes", param="config")
    try:
        said = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"config: {path} is no TOML: {str(error)[:200]}", param="config") from error
    known = _known()
    for name in said:
        if name not in known:
            raise _unknown(name, known)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}


def _unknown(name: str, known: Iterable[str]) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1)
    return ConfigError(
        f"unknown setting {excerpt_of(name)}", param=name, hint=f"did you mean {near[0]}?" if near else None
    )


def _kinds(hint: Any) -> list[Any]:
    """`int | tuple[int, ...] | None` -> [int, tuple[int, ...]]."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return [part for part in parts if part is not type(None)]


def _parsed(name: str, text: str, hint: Any) -> Any:
    """A variable's text as its type wants it; what it may be is checked with the rest."""
    kinds = _kinds(hint)
    several = next((kind for kind in kinds if get_origin(kind) is tuple), None)
    if several is not None:
        (kind, _) = get_args(several)
        return tuple(_parsed(name, part.strip(), kind) for part in text.split(",") if part.strip())
    (kind,) = kinds
    if kind is bool:
        if text.lower() not in _WORDS:
            raise ConfigError(f"{name}: expected true or false, got {excerpt_of(text)}", param=name)
        return _WORDS[text.lower()]
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ConfigError(f"{name}: expected a number, got {excerpt_of(text)}", param=name) from None
    return text


def _checked(name: str, value: Any, hint: Any, limits: Mapping[str, Any]) -> Any:
    (kind,) = _kinds(hint)
    if value is None and kind is not hint:
        return None
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ConfigError(
                f"{name}: expected one of {', '.join(get_args(kind))}, got {excerpt_of(value)}", param=name
            )
        return value
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) and each for each in value):
            raise ConfigError(f"{name}: expected a list of texts, got {excerpt_of(value)}", param=name)
        return tuple(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{name}: expected {_WORD_OF[kind]}, got {excerpt_of(value)}", param=name)
    if kind is str and not value and name != "root_path":
        raise ConfigError(f"{name}: expected a text, got an empty one", param=name)
    least, most = limits["least"], limits["most"]
    if kind in (int, float) and not (
        math.isfinite(value) and (least is None or value >= least) and (most is None or value <= most)
    ):
        bounds = f" from {least}" if most is None else f" from {least} to {most}"
        raise ConfigError(f"{name}: expected {_WORD_OF[kind]}{bounds}, got {excerpt_of(value)}", param=name)
    return value


_WORD_OF = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
