"""Old names of options: each is taken in place of the new name for one version, with a DeprecationWarning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ..errors import ConfigError

# Options of an engine: the old name, and the new one.
ENGINE: Mapping[str, str] = MappingProxyType({"table": "cpu_isa"})
REMOVED_IN = "0.3"


def renamed_text(old: str, new: str) -> str:
    """What a caller who uses an old name is told."""
    return f"{old} is now called {new}: expected {new}, got {old}, which version {REMOVED_IN} removes"


def warn_renamed(old: str, new: str) -> None:
    """Warns of an old name, at the line outside this package that uses the name."""
    package, frame, level = __name__.split(".")[0], sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == package:
        frame, level = frame.f_back, level + 1
    warnings.warn(renamed_text(old, new), DeprecationWarning, stacklevel=level)


def by_new_names(options: Mapping[str, Any], tell: Callable[[str, str], None] = warn_renamed) -> dict[str, Any]:
    """Options of an engine by their new names; `tell` hears of each old one. Raises ConfigError for both at once."""
    given = dict(options)
    for old, new in ENGINE.items():
        if old not in given:
            continue
        if new in given:
            raise ConfigError(f"{old!r} is the old name of {new!r}: expected one of the two, got both", param=new)
        tell(old, new)
        given[new] = given.pop(old)
    return given
