"""Text <-> ids through the model folder's tokenizer.json, and its chat template. Optional: prompts can be ids.

A tokenizer.json is checked for its size, its number of values, and for steps that would lengthen a text without measure
(tokenizer_checks.py). Beyond that the file must be trusted: the package tokenizers carries out what the file says,
regular expressions among the rest, in code that nothing here can interrupt.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ChatTemplateError, ModelFormatError, TokenizerError
from ..excerpt import excerpt
from ..folder.model_files import parse_json, read_file, read_json
from ..planning.vocabulary import Alphabet
from .chat.marks import whole
from .chat.messages import render_chat
from .chat_template import MAX_TEMPLATE_CHARS, ChatTemplate
from .detokenizer import Detokenizer
from .plain_text import PlainText, encode, encoding
from .tokenizer_checks import check_growth
from .transcript import ControlStop

if TYPE_CHECKING:
    import tokenizers

MAX_TOKENIZER_BYTES = 64 * 1024 * 1024  # that of 256,000 tokens and as many merges has half of it
MAX_TOKENIZER_VALUES = 1 << 22
_PROBES = ("a", "1", "的")  # texts to see what the post-processor puts around one


class Tokenizer:
    """The tokenizer of a model folder.

    `encode` adds no special tokens: the chat template writes them. `encode_prompt` begins as the tokenizer's
    post-processor does (BOS, for those that have one).
    """

    def __init__(self, folder: Path, data: bytes) -> None:
        content = _parsed(data)
        self._backend = _load(data)
        self._backend.no_padding()
        self._backend.no_truncation()
        self._detokenizer = Detokenizer(self._backend, content.get("decoder"))
        self._bytes_of: dict[int, bytes | None] = {}  # of the tokens asked for, at most the vocabulary
        self.longest_token = max(map(len, self._backend.get_vocab(with_added_tokens=True)), default=1)
        self._config = read_json(folder, "tokenizer_config.json")
        self._no_template = "the model folder has no chat template"
        self._template_source = self._find_template(folder)
        self._template: ChatTemplate | None = None
        self._protected: frozenset[int] = frozenset()

    @classmethod
    def load(cls, folder: Path) -> Tokenizer | None:
        """The folder's tokenizer, or None if it has none."""
        data = read_file(folder, "tokenizer.json", MAX_TOKENIZER_BYTES)
        return None if data is None else cls(folder, data)

    @property
    def vocab_size(self) -> int:
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @property
    def has_chat_template(self) -> bool:
        return self._template_source is not None

    @property
    def template_source(self) -> str | None:
        """The chat template as it is written in the model folder."""
        return self._template_source

    def token_id(self, token: str) -> int | None:
        return self._backend.token_to_id(token)

    @cached_property
    def alphabet(self) -> Alphabet:
        """The tokens as pieces of text; takes a moment for a large vocabulary, once."""
        texts = [self.decode([token]) for token in range(self.vocab_size)]
        return Alphabet(["" if "\ufffd" in text else text for text in texts], self.encode, self.decode)

    def encode(self, text: str, *, split_special_tokens: bool = False) -> list[int]:
        """Ids of a text. `split_special_tokens`: the names of control tokens in it are only characters."""
        if split_special_tokens:
            return self._plain_text.encode(whole(text))
        return encode(self._backend, text)

    def protect(self, ids: Iterable[int]) -> None:
        """Ids that split text must never become, beside the tokens that tokenizer.json says are special."""
        self._protected |= frozenset(ids)
        self.__dict__.pop("_plain_text", None)

    @cached_property
    def _plain_text(self) -> PlainText:
        named = (self.token_id(name) for name in self._special_tokens().values())
        return PlainText(
            self._backend, self.control_ids | self._protected | {each for each in named if each is not None}
        )

    @cached_property
    def beginning(self) -> tuple[int, ...]:
        """The ids that the post-processor of tokenizer.json puts before a text, as transformers would."""
        for probe in _PROBES:
            if self.encode(probe):
                framed = encoding(self._backend, probe, add_special_tokens=True)
                is_added = zip(framed.ids, framed.special_tokens_mask, strict=True)
                return tuple(token for token, _ in itertools.takewhile(lambda pair: pair[1] == 1, is_added))
        return ()

    def encode_prompt(self, text: str, *, split_special_tokens: bool = False) -> list[int]:
        """Ids of a plain prompt: what transformers' `tokenizer(text).input_ids` gives, but for two things. What a
        post-processor puts after a text (EOS, SEP) is left out, as the answer comes there; and a text that spells its
        BOS gets no second one.
        """
        ids = self.encode(text, split_special_tokens=split_special_tokens)
        begin = list(self.beginning)
        return ids if ids[: len(begin)] == begin else begin + ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of the ids; ids that the tokenizer does not know (a head may have more rows) leave nothing."""
        return self._detokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    @property
    def is_incremental(self) -> bool:
        """The text of more ids begins with that of fewer, but for replacement characters at its end."""
        return self._detokenizer.is_incremental

    @property
    def control_ids(self) -> frozenset[int]:
        """The special tokens, which the text does not show."""
        return frozenset(self._detokenizer.control_tokens)

    def control_stops(self, strings: Sequence[str]) -> tuple[ControlStop, ...]:
        """The stop strings that name control tokens, taken apart."""
        return self._detokenizer.control_stops(strings)

    def token_text(self, token: int) -> str:
        """A single token as it would look alone; special tokens by their name."""
        return self.decode([token], skip_special_tokens=False)

    def token_bytes(self, token: int) -> bytes | None:
        """The bytes that a token adds to a text, of a part of a character those of the part; special tokens by their
        name. None: the tokenizer does not know it.
        """
        if token not in self._bytes_of:
            self._bytes_of[token] = self._detokenizer.token_bytes(token)
        return self._bytes_of[token]

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        split_special_tokens: bool = True,
    ) -> list[int]:
        """Ids of a conversation and the header of the answer, by the model's chat template.

        `split_special_tokens`: the names of control tokens in messages are only characters; those that the template
        writes are the tokens.
        """
        return self.encode_chat(
            self.render_chat(messages, chat_template_kwargs=chat_template_kwargs),
            split_special_tokens=split_special_tokens,
        )

    def encode_chat(self, rendered: str, *, split_special_tokens: bool) -> list[int]:
        """Ids of what `render_chat` gave."""
        return self._plain_text.encode(rendered) if split_special_tokens else encode(self._backend, rendered)

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], *, chat_template_kwargs: Mapping[str, Any] | None = None
    ) -> str:
        """The conversation as text, with what messages gave marked. A last message of the assistant ends the text."""
        if self._template_source is None:
            raise ChatTemplateError(self._no_template, hint="use a plain prompt, or the model's instruct version")
        if self._template is None:
            self._template = ChatTemplate(self._template_source, special_tokens=self._special_tokens())
        return render_chat(self._template, messages, chat_template_kwargs)

    def _find_template(self, folder: Path) -> str | None:
        data = read_file(folder, "chat_template.jinja", 4 * MAX_TEMPLATE_CHARS)
        if data is not None:
            try:
                return data.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ChatTemplateError(f"chat_template.jinja: not UTF-8: {error}") from error
        template: Any = self._config.get("chat_template")
        if isinstance(template, list):
            named = dict(_named_template(entry, index) for index, entry in enumerate(template))
            if "default" not in named:
                names = ", ".join(excerpt(name, 40) for name in list(named)[:20]) or "none"
                self._no_template = f"the model folder has no chat template named default, only: {names}"
            return named.get("default")
        if template is not None and not isinstance(template, str):
            raise ChatTemplateError(
                "tokenizer_config.json, chat_template: expected text or a list of named templates, "
                f"got {type(template).__name__}"
            )
        return template

    def _special_tokens(self) -> dict[str, str]:
        """bos_token, eos_token, ... as the templates know them."""
        tokens = {}
        for name in ("bos_token", "eos_token", "pad_token", "mask_token", "unk_token", "sep_token", "cls_token"):
            value = self._config.get(name)
            if isinstance(value, dict):
                value = value.get("content")
            if isinstance(value, str):
                tokens[name] = value
        return tokens


def _named_template(entry: Any, index: int) -> tuple[str, str]:
    """(name, text) of one of several templates."""
    place = f"tokenizer_config.json, chat_template[{index}]"
    if not isinstance(entry, dict):
        raise ChatTemplateError(f"{place}: expected an object with name and template, got {type(entry).__name__}")
    for key in ("name", "template"):
        if not isinstance(entry.get(key), str):
            raise ChatTemplateError(f"{place}.{key}: expected text, got {type(entry.get(key)).__name__}")
    return entry["name"], entry["template"]


def _parsed(data: bytes) -> Mapping[str, Any]:
    """tokenizer.json, looked at before the package that reads it does."""
    try:
        content = parse_json(data, "tokenizer.json", max_values=MAX_TOKENIZER_VALUES)
    except ModelFormatError as error:
        raise TokenizerError(error.message) from error
    if not isinstance(content, dict):
        raise TokenizerError(f"tokenizer.json: expected a JSON object, got {type(content).__name__}")
    check_growth(content)
    return content


def _load(data: bytes) -> tokenizers.Tokenizer:
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_buffer(data)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # its Rust half may panic, which is no Exception
        raise TokenizerError(f"tokenizer.json cannot be loaded: {excerpt(str(error))}") from error
