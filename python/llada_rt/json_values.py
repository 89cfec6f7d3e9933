"""Values that can be written as JSON: what `to_dict` of an output gives."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


class JsonValue:
    """A dataclass whose `to_dict` gives what JSON can hold: a tuple is a list, a number that is not finite is None."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """The value as JSON has it.

        Returns:
            Plain JSON values by the names of the attributes. A tuple is a list, a number that is not finite is None.
        """
        return {spec.name: plain(getattr(self, spec.name)) for spec in dataclasses.fields(self)}  # type: ignore[arg-type]


def plain(value: Any) -> Any:
    """The value as JSON has it."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value]
