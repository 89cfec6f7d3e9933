"""Detokenizer: ids -> text by the decoder of a tokenizer.json, and whether that text only grows as ids are added."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import TokenizerError
from ..excerpt import excerpt
from .transcript import REPLACEMENT, ControlStop

if TYPE_CHECKING:
    import tokenizers

_HEX = "0123456789abcdefABCDEF"
# The names of bytes as the decoder ByteFallback reads them, "<0xE5>"; its parser takes a sign too.
_BYTE_NAMES = {f"<0x{digits}>": int(digits, 16) for first in _HEX + "+" for digits in (first + d for d in _HEX)}

# The characters by which byte-level vocabularies name bytes: a printable one names its own byte, the others follow from
# U+0100 on (bytes_to_unicode of GPT-2).
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [value for value in range(256) if value not in _PRINTABLE]
_BYTE_LEVEL = {chr(value): value for value in _PRINTABLE} | {chr(256 + i): value for i, value in enumerate(_OTHERS)}


class Detokenizer:
    """As the tokenizer's own decode, but for bytes that make no character: there ByteFallback gives up all bytes in a
    row, whole characters among them. Here a broken byte costs itself alone, so that text which has been told stays.
    """

    def __init__(self, backend: tokenizers.Tokenizer, decoder: object) -> None:
        """`decoder`: that of tokenizer.json."""
        self._backend = backend
        self._decoder = backend.decoder
        steps = _steps(decoder)
        self._byte_of: dict[int, int] = {}
        if _reads_bytes(steps):
            found = {backend.token_to_id(name): value for name, value in _BYTE_NAMES.items()}
            self._byte_of = {token: value for token, value in found.items() if token is not None}
        self._is_byte_level = bool(steps) and steps[0].get("type") == "ByteLevel"
        self.is_incremental = _is_incremental(steps, backend)
        added = backend.get_added_tokens_decoder()
        self.control_tokens: Mapping[int, str] = {token: each.content for token, each in added.items() if each.special}

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        hidden = self.control_tokens if skip_special_tokens else {}
        if not any(each not in hidden and self._backend.id_to_token(each) is not None for each in ids):
            return ""  # there are decoders that stumble over nothing
        try:
            return self._decode(ids, skip_special_tokens)
        except (KeyboardInterrupt, SystemExit, MemoryError, OverflowError, TypeError):
            raise
        except BaseException as error:  # its Rust half may panic, which is no Exception
            raise TokenizerError(f"the tokens cannot be decoded: {excerpt(str(error))}") from error

    def token_bytes(self, token: int) -> bytes | None:
        """The bytes that a token adds to the text before. None: there is no such token.

        A token that is a part of a character gives the bytes of the part, a special token those of its name.
        """
        name = self._backend.id_to_token(token)
        if name is None:
            return None
        if self._is_byte_level:
            values = [_BYTE_LEVEL.get(character) for character in name]
            known = bytes(value for value in values if value is not None)
            return known if len(known) == len(values) else name.encode()
        if token in self._byte_of:
            return bytes([self._byte_of[token]])
        # Alone a token may lose the space at its beginning; the second of two has the space.
        alone = self.decode([token], skip_special_tokens=False)
        twice = self.decode([token, token], skip_special_tokens=False)
        added = twice.removeprefix(alone) if twice.startswith(alone) else ""
        return (added or alone).encode()

    def _decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        if self._byte_of.keys().isdisjoint(ids):
            return str(self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens))
        tokens: list[str] = []
        values: list[int | None] = []  # of the tokens that are bytes
        for each in ids:
            token = self._backend.id_to_token(each)
            if token is not None and not (skip_special_tokens and each in self.control_tokens):
                tokens.append(token)
                values.append(self._byte_of.get(each))
        for index in _broken(values):
            tokens[index] = REPLACEMENT
        return str(self._decoder.decode(tokens))

    def control_stops(self, strings: Sequence[str]) -> tuple[ControlStop, ...]:
        """The stop strings that name control tokens, which the text never shows, taken apart."""
        by_name = {name: token for token, name in self.control_tokens.items() if name}
        if not by_name or not strings:
            return ()
        names = re.compile("|".join(re.escape(name) for name in sorted(by_name, key=len, reverse=True)))
        stops = []
        for string in strings:
            tokens = tuple(by_name[name] for name in names.findall(string))
            if tokens:
                stops.append(ControlStop(string, tuple(names.split(string)), tokens))
        return tuple(stops)


def _broken(values: Sequence[int | None]) -> list[int]:
    """Indices of the bytes that are part of no character; None parts one run of bytes from the next."""
    broken: list[int] = []
    start = 0
    while start < len(values):
        stop = next((i for i in range(start, len(values)) if values[i] is None), len(values))
        run = bytes(value for value in values[start:stop] if value is not None)
        while run:
            try:
                run.decode()
                break
            except UnicodeDecodeError as error:
                first = stop - len(run)
                broken += range(first + error.start, first + error.end)
                run = run[error.end :]
        start = stop + 1
    return broken


def _steps(decoder: object) -> list[Mapping[str, Any]]:
    """A decoder as the row of its steps, those of sequences among them."""
    if decoder is None:
        return []
    if not isinstance(decoder, Mapping):
        return [{}]  # of no kind that is known here
    if decoder.get("type") != "Sequence":
        return [decoder]
    parts = decoder.get("decoders")
    return [step for part in parts for step in _steps(part)] if isinstance(parts, list) else [{}]


def _replaced_character(step: Mapping[str, Any]) -> str | None:
    """The one character that a Replace replaces; None: it is something else, or replaces more."""
    pattern = step.get("pattern") if step.get("type") == "Replace" else None
    text = pattern.get("String") if isinstance(pattern, Mapping) else None
    return text if isinstance(text, str) and len(text) == 1 else None


def _reads_bytes(steps: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is a ByteFallback that sees the names of bytes as they are in the vocabulary."""
    for step in steps:
        if step.get("type") == "ByteFallback":
            return True
        character = _replaced_character(step)
        if character is None or character in "<0x>+" + _HEX or "<" in str(step.get("content")):
            return False
    return False


def _is_incremental(steps: Sequence[Mapping[str, Any]], backend: tokenizers.Tokenizer) -> bool:
    """Whether the text of more ids begins with that of fewer, but for replacement characters at its end.

    At first each token is a piece of its own, which no later token changes. ByteLevel, ByteFallback and Fuse make
    pieces that grow; from there on a step must not look at more than a character, or only at the beginning.
    """
    grows = False
    for index, step in enumerate(steps):
        kind = step.get("type")
        if kind == "ByteLevel":
            if grows:
                return False
            grows = True
        elif kind == "ByteFallback":
            if grows or not _reads_bytes(steps[: index + 1]):
                return False
            grows = True
        elif kind == "Fuse":
            grows = True
        elif kind in ("WordPiece", "CTC"):
            if grows:
                return False
        elif kind == "BPEDecoder":  # the last token lacks the space after it
            if grows or any(later.get("type") != "Fuse" for later in steps[index + 1 :]):
                return False
            if not _is_at_end_only(str(step.get("suffix", "")), backend):
                return False
            grows = True
        elif kind == "Replace":
            if grows and _replaced_character(step) in (None, REPLACEMENT):
                return False
        elif kind == "Strip":
            if grows and step.get("stop") != 0:
                return False
        elif kind != "Metaspace" or step.get("replacement") == REPLACEMENT:
            return False
    return True


def _is_at_end_only(suffix: str, backend: tokenizers.Tokenizer) -> bool:
    """Tokens that have the suffix have it once, at their end."""
    if not suffix:
        return False
    return all(token.find(suffix) in (-1, len(token) - len(suffix)) for token in backend.get_vocab())
