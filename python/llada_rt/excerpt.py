"""Text of a file or a caller, as messages may show the text. csrc/core/text.h does the same."""

from __future__ import annotations

import reprlib
import unicodedata

MOST_CHARACTERS = 100
# Control, format (marks of writing direction, what has no width), half a surrogate, and separators of lines.
_UNSHOWN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def shown(text: str) -> str:
    """All of a text of several lines, without what a terminal would obey or hide."""
    return "\n".join("".join(map(_shown, line)) for line in text.split("\n"))


def excerpt(text: str, most: int = MOST_CHARACTERS) -> str:
    """The first `most` characters or so, "..." for the rest. What a terminal would obey or hide is written as \\xNN or
    \\uNNNN.
    """
    begun = "".join(map(_shown, text[:most]))
    return begun if len(text) <= most and len(begun) <= 2 * most else begun[: 2 * most] + "..."


def excerpt_of(value: object, most: int = MOST_CHARACTERS) -> str:
    """A value out of JSON, as Python writes it. Only the beginning of a large value is looked at."""
    writer = _Writer()
    writer.maxstring = writer.maxother = writer.maxlong = most
    return excerpt(writer.repr(value), most)


class _Writer(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        if x.bit_length() > 4096:  # in digits it takes long, and Python may refuse
            return f"an integer of {x.bit_length()} bits"
        return super().repr_int(x, level)


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _UNSHOWN:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
