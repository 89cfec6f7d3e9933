"""What one rendering of a chat template may cost: work, bytes made, size of a value, and time.

Bytes are never given back to the budget, so the values that are alive can't exceed it, whatever the template keeps.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from jinja2 import Undefined

from ...errors import ChatTemplateError
from .marks import spans_of

MAX_SIZE = 1024 * 1024  # characters or items of any value on the way, and of the output
MAX_WORK = 2_000_000  # steps, and characters handled / 64
MAX_BYTES = 36 * 1024 * 1024  # of all values made on the way
MAX_SECONDS = 0.8
MAX_INTEGER_BITS = 64
STEPS_PER_LOOK = 256  # at the clock

_LEAF_BYTES = 32  # a number, or what else stands in a list


class Budget:
    """One rendering's; every step of the interpreter comes through here."""

    __slots__ = ("_bytes", "_deadline", "_next_look", "_work")

    def __init__(self) -> None:
        self._work = MAX_WORK
        self._bytes = MAX_BYTES
        self._next_look = MAX_WORK - STEPS_PER_LOOK
        self._deadline = time.monotonic() + MAX_SECONDS

    def work(self, units: int = 1) -> None:
        self._work -= units
        if self._work <= self._next_look:
            if self._work < 0:
                raise ChatTemplateError(f"the chat template does too much work: expected at most {MAX_WORK} steps")
            if time.monotonic() > self._deadline:
                raise ChatTemplateError(f"the chat template takes too long: expected at most {MAX_SECONDS} s")
            self._next_look = self._work - STEPS_PER_LOOK

    def reserve(self, size: int, num_bytes: int) -> None:
        """Before a value of `size` characters or items is made."""
        if size > MAX_SIZE:
            raise ChatTemplateError(f"the chat template makes a value of more than {MAX_SIZE} characters or items")
        self._bytes -= num_bytes
        if self._bytes < 0:
            raise ChatTemplateError(f"the chat template makes too much: expected at most {MAX_BYTES} bytes of values")
        self.work(1 + size // 64)

    def reserve_text(self, length: int, *sources: str) -> None:
        """Before a text of at most `length` characters is made of the characters of `sources`."""
        self.reserve(length, 80 + length * max(map(_bytes_per_character, sources), default=1))

    def reserve_list(self, length: int, bytes_per_item: int = 8) -> None:
        self.reserve(length, 64 + length * bytes_per_item)

    def reserve_marks(self, *texts: str) -> None:
        """For the marks of texts, which are kept beside their characters."""
        count = sum(len(spans_of(text)) for text in texts)
        if count > 1:
            self.reserve(count, count * 120)

    def made(self, value: Any) -> Any:
        """After a value was made whose size was known to be small enough."""
        if isinstance(value, (str, list, tuple, dict)):
            self.reserve(len(value), sys.getsizeof(value))
        elif isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
            raise ChatTemplateError(f"the chat template computes an integer of more than {MAX_INTEGER_BITS} bits")
        return value

    def weigh(self, value: Any) -> Any:
        """The value, after paying for a walk over all of it: comparing, hashing or printing costs no more."""
        if isinstance(value, (list, tuple)):
            self.work(1 + len(value) // 8)
            for item in value:
                if not isinstance(item, _LIGHT):
                    self.weigh(item)
        elif isinstance(value, dict):
            self.work(1 + len(value) // 8)
            for key, item in value.items():
                self.weigh(key)
                self.weigh(item)
        elif isinstance(value, str):
            self.work(1 + len(value) // 64)
        else:
            self.work()
        return value

    def reserve_items(self, count: int, bytes_each: int = _LEAF_BYTES) -> None:
        """Before `count` small values are made."""
        self.reserve(count, count * bytes_each)


_LIGHT = (int, float, type(None), Undefined)


def _bytes_per_character(text: str) -> int:
    if text.isascii():
        return 1
    per_character = (sys.getsizeof(text) - 56) // max(len(text), 1)
    return 4 if per_character >= 4 else 2 if per_character >= 2 else 1
