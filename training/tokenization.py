"""Tokenizers (ordinary tokenizer.json files) and LLaDA's chat form; `python -m training.tokenizer` trains one.

The demo's has one token per character, so that each character of a line can be a hole; the fixed words of the questions
are one token each (they are added tokens, found before the text is cut into characters), because a shorter prompt is a
cheaper training row; characters that are not in the vocabulary become UTF-8 bytes, so any text survives the round trip.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

BOS_TOKEN = "<|startoftext|>"
EOS_TOKEN = "<|endoftext|>"  # also PAD
MASK_TOKEN = "<|mdm_mask|>"
HEADER_START, HEADER_END = "<|start_header_id|>", "<|end_header_id|>"
EOT_TOKEN = "<|eot_id|>"
SPECIAL_TOKENS = (BOS_TOKEN, EOS_TOKEN, MASK_TOKEN, HEADER_START, HEADER_END, EOT_TOKEN)
CHAT_PHRASES = ("user", "assistant", "system", "\n\n")

# LLaDA-Instruct's template, except that the assistant header comes only when it is asked for: the published one
# always appends it, which is wrong for training targets.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first %}{{ '<|startoftext|>' }}{% endif %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim }}{{ '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def build_tokenizer(texts: Iterable[str], phrases: Iterable[str] = ()) -> Tokenizer:
    """Characters of `texts` and printable ASCII, 256 bytes, `phrases` as single tokens, LLaDA's special tokens."""
    phrases = dict.fromkeys([*CHAT_PHRASES, *phrases])
    ascii_characters = {chr(code) for code in range(32, 127)}
    characters = sorted({char for text in [*texts, *phrases] for char in text} | ascii_characters)
    vocabulary = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    model = models.BPE(
        vocab={token: index for index, token in enumerate(vocabulary)}, merges=[], byte_fallback=True, unk_token=None
    )
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    return tokenizer


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE: any text survives the round trip. `vocab_size` counts the special tokens and the 256 bytes."""
    smallest = len(SPECIAL_TOKENS) + 256
    if vocab_size < smallest:
        raise ValueError(f"vocab_size: expected at least {smallest}, got {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def complete(tokenizer: Tokenizer, but: Sequence[str] = ()) -> list[str]:
    """Add those of LLaDA's special tokens that a tokenizer lacks, after its own entries; their names.

    Mask and end token are what training cannot do without; the others make the chat form. `but`: not these.
    """
    missing = [token for token in SPECIAL_TOKENS if token not in but and tokenizer.token_to_id(token) is None]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in missing])
    return missing


def load_tokenizer(path: Path) -> tuple[Tokenizer, list[str]]:
    """Any tokenizer.json, completed; and the names of the tokens that had to be added."""
    tokenizer = read_tokenizer(path)
    return tokenizer, complete(tokenizer)


def read_tokenizer(path: Path) -> Tokenizer:
    """Any tokenizer.json, or that of a folder, as it is."""
    if path.is_dir():
        path = path / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no tokenizer; python -m training.tokenizer trains one")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{path}: expected a tokenizer.json of the tokenizers library: {error}") from None


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """ValueError for a token that the tokenizer lacks."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer lacks {token!r}; training.tokenization.complete adds it")
    return found


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """sha256 of all that decides which tokens a text becomes."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def render_chat(messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
    """CHAT_TEMPLATE in Python (a test holds the two together)."""
    text = BOS_TOKEN if messages else ""
    for message in messages:
        text += f"{HEADER_START}{message['role']}{HEADER_END}\n\n{message['content'].strip()}{EOT_TOKEN}"
    return text + (f"{HEADER_START}assistant{HEADER_END}\n\n" if add_generation_prompt else "")


def encode_chat(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool
) -> list[int]:
    text = render_chat(messages, add_generation_prompt=add_generation_prompt)
    return tokenizer.encode(text, add_special_tokens=False).ids


def texts_in(record: dict[str, Any]) -> list[str]:
    """Every text of a record, whatever its form; a template's holes left out."""
    messages = record.get("messages", ())
    return [text for key, text in record.items() if isinstance(text, str) and key != "template"] + [
        message["content"] for message in messages
    ]
