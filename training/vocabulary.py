"""Vocabulary: a tokenizer with what training must know of it: the ids of mask and ends, and the chat form.

That of a checkpoint is taken as it is. Its own configuration says which token is the mask and which ends a text, and
its own template how a conversation is written; nothing is added, so what is exported serves as its source did. Tokens
by LLaDA's names, and LLaDA's chat form, are for new tokenizers and for checkpoints without a template.
"""

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer

from training.chat_form import ChatForm, ChatFormError, find_template, named_tokens
from training.tokenization import (
    CHAT_TEMPLATE,
    EOS_TOKEN,
    EOT_TOKEN,
    MASK_TOKEN,
    complete,
    read_tokenizer,
    token_id,
    tokenizer_hash,
)

HOUSE, OWN = "LLaDA's", "the checkpoint's own template"


@dataclass(frozen=True)
class Vocabulary:
    """See above. `form` None: LLaDA's chat form."""

    tokenizer: Tokenizer
    mask_id: int
    eos_id: int  # ends a document and an answer without a chat form, and pads
    eot_id: int | None = None  # ends a reply in LLaDA's chat form
    form: ChatForm | None = None
    folder: Path | None = None  # the checkpoint's
    lacks_template: bool = False  # it has none
    added: tuple[str, ...] = ()  # tokens that its tokenizer lacked

    @classmethod
    def of(cls, source: "Tokenizer | Vocabulary") -> "Vocabulary":
        """A vocabulary as it is; of a tokenizer, the ids by LLaDA's names."""
        if isinstance(source, Vocabulary):
            return source
        if missing := [token for token in (MASK_TOKEN, EOS_TOKEN) if source.token_to_id(token) is None]:
            raise ValueError(f"the tokenizer lacks {missing}; training.tokenization.complete adds them")
        return cls(source, token_id(source, MASK_TOKEN), token_id(source, EOS_TOKEN), source.token_to_id(EOT_TOKEN))

    @property
    def mask_token(self) -> str:
        token = self.tokenizer.id_to_token(self.mask_id)
        if token is None:
            raise ValueError(f"mask {self.mask_id}: expected a token of the tokenizer, which has none of that id")
        return token

    @property
    def chat_form(self) -> str:
        """What to say of it."""
        if self.form is None:
            return HOUSE + (", as the checkpoint has no chat template" if self.lacks_template else "")
        return f"{OWN}, replies by " + ("{% generation %}" if self.form.marks_replies else "what follows the prompt")

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """What ends an answer."""
        ends = [self.eos_id, self.eot_id]
        if self.form is not None:
            with contextlib.suppress(ChatFormError):  # it writes other conversations only
                reply = self.form.reply([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
                last = self.tokenizer.encode(reply.answer.rstrip(), add_special_tokens=False).ids[-1:]
                ends += last if reply.has_end else []
        return tuple(dict.fromkeys(end for end in ends if end is not None))

    @cached_property
    def beginning(self) -> tuple[int, ...]:
        """What the tokenizer's post-processor puts before a plain text (BOS), as a plain prompt is served with it."""
        encoding = self.tokenizer.encode("a", add_special_tokens=True)
        count = next((i for i, is_added in enumerate(encoding.special_tokens_mask) if not is_added), 0)
        return tuple(encoding.ids[:count])

    @property
    def key(self) -> str:
        """All that decides which tokens a row becomes, in a line."""
        form = None if self.form is None else self.form.source
        return f"{tokenizer_hash(self.tokenizer)} {self.mask_id} {self.eos_id} {self.eot_id} {form!r}"


def open_vocabulary(folder: Path, *, needs_chat: bool = False, tokenizer: Tokenizer | None = None) -> Vocabulary:
    """That of a model folder. needs_chat: rows are conversations, so a folder without a template gets LLaDA's form, and
    those of its tokens that the tokenizer lacks. tokenizer: the folder's, as a run has completed it.
    """
    tokenizer = tokenizer or read_tokenizer(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    mask_id, eos_id = (_first_id(config, name, folder) for name in ("mask_token_id", "eos_token_id"))
    template = find_template(folder)
    if template is not None and template != CHAT_TEMPLATE:
        known = tokenizer.get_added_tokens_decoder().values()
        # Some tokenizers do not call the marks of turns special: those look like it.
        marks = [token.content for token in known if token.special or re.fullmatch(r"[<\[].+[>\]]", token.content)]
        named = named_tokens(folder)
        mask = tokenizer.id_to_token(mask_id)
        ends = {*marks, *(named[name] for name in ("eos_token", "eot_token") if name in named)} - {mask}
        return Vocabulary(tokenizer, mask_id, eos_id, None, ChatForm(template, named, sorted(ends)), folder)
    # Mask and end are those that the configuration names.
    added = complete(tokenizer, but=(MASK_TOKEN, EOS_TOKEN)) if needs_chat else []
    eot_id = tokenizer.token_to_id(EOT_TOKEN)
    return Vocabulary(tokenizer, mask_id, eos_id, eot_id, None, folder, template is None, tuple(added))


def _first_id(config: dict, name: str, folder: Path) -> int:
    value = config.get(name)
    first = value[0] if isinstance(value, Sequence) and not isinstance(value, str) and value else value
    if type(first) is not int:
        raise ValueError(f"{folder / 'config.json'}: {name}: expected a token id, got {value!r}")
    return first
