"""The demo's tokenizer (an ordinary tokenizer.json) and LLaDA's chat form.

One token per character, so that each character of a line can be a hole; the fixed words of the questions are one
token each (they are added tokens, found before the text is cut into characters), because a shorter prompt is a
cheaper training row; characters that are not in the vocabulary become UTF-8 bytes, so any text survives the round trip.
"""

from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models

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


def render_chat(messages: Sequence[dict[str, str]], *, add_generation_prompt: bool) -> str:
    """CHAT_TEMPLATE in Python (a test holds the two together)."""
    text = BOS_TOKEN if messages else ""
    for message in messages:
        text += f"{HEADER_START}{message['role']}{HEADER_END}\n\n{message['content'].strip()}{EOT_TOKEN}"
    return text + (f"{HEADER_START}assistant{HEADER_END}\n\n" if add_generation_prompt else "")


def encode_chat(tokenizer: Tokenizer, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool) -> list[int]:
    text = render_chat(messages, add_generation_prompt=add_generation_prompt)
    return tokenizer.encode(text, add_special_tokens=False).ids
