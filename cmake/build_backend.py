"""The build backend: scikit-build-core's, which also asks for the headers of CUTLASS where CUDA sources are compiled.

An isolated build sees nothing but what it asks for, and only -Ccmake.define.LLADA_CUDA=ON has a use for these headers.
The package brings others along that are not needed (74 MB to download in all), so a folder of one's own,
-Ccmake.define.CUTLASS_DIR=..., does without.
"""

from __future__ import annotations

import importlib
import os
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

CUTLASS = "nvidia-cutlass==4.2.0.0"

Settings = Mapping[str, "str | list[str]"]  # of -C, as the frontend hands them on


def __getattr__(name: str) -> Any:
    """Every other hook."""
    return getattr(_below(), name)


def _below() -> Any:
    """Loaded late: the tests read this file where scikit-build-core is not installed."""
    return importlib.import_module("scikit_build_core.build")


def get_requires_for_build_wheel(config_settings: Settings | None = None) -> list[str]:
    return [*_below().get_requires_for_build_wheel(config_settings), *_cutlass(config_settings)]


def get_requires_for_build_editable(config_settings: Settings | None = None) -> list[str]:
    return [*_below().get_requires_for_build_editable(config_settings), *_cutlass(config_settings)]


def _cutlass(settings: Settings | None) -> list[str]:
    return [CUTLASS] if wants_cutlass(os.environ, settings or {}) else []


def wants_cutlass(environment: Mapping[str, str], settings: Settings) -> bool:
    """Whether a build was asked for CUDA, and was not told of headers that are there already."""
    options = cmake_options(environment, settings)
    return is_true(options.get("LLADA_CUDA", "")) and not options.get("CUTLASS_DIR")


def is_true(value: str) -> bool:
    """As CMake reads it."""
    return value.upper() in {"ON", "YES", "TRUE", "Y"} or (value.isdecimal() and int(value) != 0)


def cmake_options(environment: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """What -D gives CMake; as in scikit-build-core, CMAKE_ARGS go before cmake.args, these before cmake.define."""
    names = {name.removeprefix("skbuild."): value for name, value in settings.items()}
    defined = {
        name.removeprefix("cmake.define."): value if isinstance(value, str) else value[-1]
        for name, value in names.items()
        if name.startswith("cmake.define.")
    }
    given = names.get("cmake.args", [])
    arguments = given.split(";") if isinstance(given, str) else given
    return defined | _defines(arguments) | _defines(shlex.split(environment.get("CMAKE_ARGS", "")))


def _defines(arguments: Iterable[str]) -> dict[str, str]:
    """-DNAME=value, -DNAME:TYPE=value, -D NAME=value."""
    found, is_next = {}, False
    for argument in arguments:
        if is_next or argument.startswith("-D"):
            name, _, value = argument.removeprefix("-D").partition("=")
            found[name.partition(":")[0]] = value
        is_next = argument == "-D"
    found.pop("", None)
    return found
