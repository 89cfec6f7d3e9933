"""Encoding of text with stretches that are only characters: in these the names of control tokens are no tokens.

The tokenizer is asked first. If its control tokens are those that the unmarked text names, its ids are the answer. So
text without such names has the ids that the tokenizer gives. Otherwise a copy of the tokenizer is asked. The copy knows
the control tokens by secret names, and only control tokens that are meant are written by these.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import InvalidRequestError, TokenizerError
from ..excerpt import excerpt
from .chat.marks import Spans, spans_of

if TYPE_CHECKING:
    import tokenizers

_LONG_CHARS = 10_000  # only a batch, of one too, is encoded without the lock of the interpreter
_WORD = re.compile(r"\w")


def encode(backend: tokenizers.Tokenizer, text: str) -> list[int]:
    """Ids of the text, nothing added."""
    return list(encoding(backend, text, add_special_tokens=False).ids)


def encoding(backend: tokenizers.Tokenizer, text: str, *, add_special_tokens: bool) -> tokenizers.Encoding:
    """The text as the tokenizer reads it. `add_special_tokens`: with what its post-processor puts around a text."""
    text = str(text)
    try:
        if len(text) > _LONG_CHARS:
            return backend.encode_batch([text], add_special_tokens=add_special_tokens)[0]
        return backend.encode(text, add_special_tokens=add_special_tokens)
    except Exception as error:
        raise InvalidRequestError(f"the text cannot be encoded: {excerpt(str(error))}", param="prompt") from error
    except BaseException as error:
        raise _of_panic(error) from error


def _of_panic(error: BaseException) -> BaseException:
    """A panic of the tokenizer's Rust half, which is no Exception, as one; everything else as it is."""
    if type(error).__name__ != "PanicException":
        return error
    return TokenizerError(f"the tokenizer failed: {excerpt(str(error))}")


class PlainText:
    """For one tokenizer. `control_ids`: what marked text never becomes."""

    def __init__(self, backend: tokenizers.Tokenizer, control_ids: Collection[int]) -> None:
        self._backend = backend
        by_id = backend.get_added_tokens_decoder()
        # An added token is named by its content: `id_to_token` gives what a normalizer has made of the content.
        names = {token: by_id[token].content if token in by_id else backend.id_to_token(token) for token in control_ids}
        self._control = {name: token for token, name in names.items() if name}
        added = {token.content: token for token in by_id.values() if token.content}
        # What the tokenizer finds in a text before it looks at anything else, and what its vocabulary finds.
        read = [name for name, token in self._control.items() if name not in added and token in encode(backend, name)]
        self._named = re.compile("|".join(map(re.escape, sorted([*added, *read], key=len, reverse=True))) or r"(?!)")
        self._single_words = {name for name, token in added.items() if token.single_word}

    def encode(self, text: str) -> list[int]:
        """Ids of a text. What is marked in the text (chat/marks.py) gives the ids of its characters."""
        spans = spans_of(text)
        text = str(text)
        meant, is_sure = self._meant(text, spans)
        ids = encode(self._backend, text)
        control = set(self._control.values())
        if is_sure and [token for token in ids if token in control] == [self._control[name] for _, name in meant]:
            return ids
        pieces, at = [], 0
        for place, name in meant:
            pieces += [text[at:place], self._secret_names[name]]
            at = place + len(name)
        return encode(self._copy, "".join([*pieces, text[at:]]))

    def _meant(self, text: str, spans: Spans) -> tuple[list[tuple[int, str]], bool]:
        """(place, name) of each control token that unmarked text names, and whether marked text names none."""
        meant = []
        is_sure = True
        left = list(spans[::-1])  # the next one last
        for match in self._named.finditer(text):
            name, (start, stop) = match[0], match.span()
            if name not in self._control:
                continue
            if name in self._single_words and (_WORD.match(text, stop) or (start and _WORD.match(text, start - 1))):
                continue
            while left and left[-1][1] <= start:
                left.pop()
            if left and left[-1][0] < stop:
                is_sure = False
            else:
                meant.append((start, name))
        return meant, is_sure

    @cached_property
    def _secret_names(self) -> dict[str, str]:
        secret = secrets.token_hex(16)
        return {name: f"<|{secret}-{index}|>" for index, name in enumerate(self._control)}

    @cached_property
    def _copy(self) -> tokenizers.Tokenizer:
        """The tokenizer with the control tokens under their secret names; made when it is first needed."""
        import tokenizers

        try:
            return tokenizers.Tokenizer.from_str(json.dumps(self._renamed(json.loads(self._backend.to_str()))))
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # its Rust half may panic, which is no Exception
            raise TokenizerError(
                f"control tokens cannot be told from text by this tokenizer: {excerpt(str(error))}",
                param="split_special_tokens",
                hint="messages without the names of control tokens, or split_special_tokens=False",
            ) from error

    def _renamed(self, settings: dict[str, Any]) -> dict[str, Any]:
        """tokenizer.json with the secret names."""
        names = self._secret_names
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "special": True}
        added = {token["content"]: token for token in settings["added_tokens"]}
        for name, token in self._control.items():
            flags = added.pop(name, plain)
            added[names[name]] = {**flags, "id": token, "content": names[name], "normalized": False}
        settings["added_tokens"] = sorted(added.values(), key=lambda token: token["id"])
        settings["post_processor"] = None  # it adds tokens by name, and is not asked to
        model = settings["model"]
        vocabulary = model["vocab"]
        if isinstance(vocabulary, dict):
            model["vocab"] = {names.get(word, word): token for word, token in vocabulary.items()}
        else:
            model["vocab"] = [[names.get(word, word), score] for word, score in vocabulary]
        if "merges" in model:
            merges = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
            model["merges"] = [[a, b] for a, b in merges if names.keys().isdisjoint((a, b, a + b))]
        if model.get("unk_token") is not None:
            model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
        return settings
