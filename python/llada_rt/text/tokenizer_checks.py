"""How much longer a tokenizer.json may make a text: forty steps that replace a letter by two give 2^40 letters.

The measure is an upper bound per character of the text, from what the steps say of themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import TokenizerError

MAX_GROWTH = 128
_MAX_STEPS = 256
# Characters that a step makes of one. Among the normal forms NFKD makes most, eighteen of U+FDFA. A second normal form
# adds nothing to the first, so they count once.
_NORMAL_FORMS = {"NFC": 3, "NFD": 4, "NFKC": 18, "NFKD": 18, "Precompiled": 18}
_OTHERS = {"BertNormalizer": 4, "Lowercase": 3, "ByteLevel": 4, "Nmt": 1}


def check_growth(tokenizer: Mapping[str, Any]) -> None:
    """Raises TokenizerError if its normalizer or its decoder could lengthen a text more than MAX_GROWTH times."""
    for section, parts in (("normalizer", "normalizers"), ("decoder", "decoders")):
        growth, normal_form = 1.0, 1.0
        for number, step in enumerate(_steps(tokenizer.get(section), parts)):
            kind = str(step.get("type"))
            if kind in _NORMAL_FORMS:
                normal_form = max(normal_form, _NORMAL_FORMS[kind])
            else:
                growth *= _growth(kind, step)
            if growth * normal_form > MAX_GROWTH or number >= _MAX_STEPS:
                raise TokenizerError(
                    f"tokenizer.json: {section}: expected at most {_MAX_STEPS} steps that make a text at most "
                    f"{MAX_GROWTH} times as long, got more at step {number}"
                )


def _steps(section: object, parts: str) -> Iterator[Mapping[str, Any]]:
    """The steps of a section one after the other, those of sequences among them. What is no step is passed over: the
    package that reads the file refuses it.
    """
    waiting = [section]
    while waiting:
        step = waiting.pop()
        if not isinstance(step, dict):
            continue
        if isinstance(inner := step.get(parts), list):
            waiting += reversed(inner)
        else:
            yield step


def _growth(kind: str, step: Mapping[str, Any]) -> float:
    if kind == "Prepend":  # of a text of one character
        return 1 + len(str(step.get("prepend", "")))
    if kind != "Replace":
        return _OTHERS.get(kind, 1)
    content, pattern = len(str(step.get("content", ""))), step.get("pattern")
    text = pattern.get("String") if isinstance(pattern, dict) else None
    if isinstance(text, str) and text:
        return max(1, content / len(text))
    return 1 + content  # an expression may match between any two characters
