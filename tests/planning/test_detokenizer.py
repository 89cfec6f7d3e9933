"""Detokenizer: for every kind of decoder streamed text is the whole text, and a broken byte costs itself alone."""

import random

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from llada_rt.errors import TokenizerError
from llada_rt.text.detokenizer import Detokenizer
from llada_rt.text.transcript import REPLACEMENT, StopRule, Transcript

NUM_TEXTS = 600
BYTES = [f"<0x{value:02X}>" for value in range(256)]
WORDS = [
    *["▁the", "▁a", "▁", "a▁b", "##ing", "##", "word", ".", "n't", " do not", "the</w>", "x</w>", "</w>"],
    *["é", "床前", "😀", "-a", "b-", "-c-", "ab", "bb", "a", "b", "|", "<pad>", "<pad>a", "c|d"],
    *["Ġword", "Ċ", "Ã", "©", "ðŁĺĢ", "ðŁ", REPLACEMENT, "x" + REPLACEMENT, "\u0301", "A1", "!", "!!", "tail"],
    *["<0x+A>", "<0xc3>", "<0xZZ>"],
]
CONTROLS = ["<|end|>", "<|mid|>"]
STOPS = ["a", "b", "ab", " ", "é", "😀", "tail", "word", "!!", " a", "the", "A", "床", REPLACEMENT, "never", "bb", ". "]

STREAMED = {
    "none": None,
    "ByteLevel": decoders.ByteLevel(),
    "ByteFallback": decoders.ByteFallback(),
    "Fuse": decoders.Fuse(),
    "Metaspace": decoders.Metaspace(),
    "Metaspace never": decoders.Metaspace(prepend_scheme="never"),
    "Replace": decoders.Replace("▁", " "),
    "Replace words": decoders.Replace("ab", "<>"),
    "Replace regex": decoders.Replace(Regex("[ab]+$"), "end"),
    "Strip": decoders.Strip("-", 1, 0),
    "Strip both": decoders.Strip("-", 1, 1),
    "WordPiece": decoders.WordPiece(),
    "WordPiece as it is": decoders.WordPiece(cleanup=False),
    "CTC": decoders.CTC(),
    "BPE": decoders.BPEDecoder(),
    "Llama 2": decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
    "Gemma": decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
    "demo": decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()]),
    "bytes, Metaspace": decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]),
    "bytes, Strip": decoders.Sequence([decoders.ByteFallback(), decoders.Strip("a", 2, 0), decoders.Fuse()]),
    "ByteLevel, Replace": decoders.Sequence([decoders.ByteLevel(), decoders.Replace("é", "e")]),
    "WordPiece, Fuse": decoders.Sequence([decoders.WordPiece(), decoders.Fuse(), decoders.Fuse()]),
    "CTC, Strip": decoders.Sequence([decoders.CTC(), decoders.Strip("-", 1, 1), decoders.Fuse()]),
    "a sequence in another": decoders.Sequence([decoders.Sequence([decoders.ByteFallback()]), decoders.Fuse()]),
}
AT_THE_END = {
    "BPE within words": decoders.BPEDecoder("b"),
    "BPE, Strip": decoders.Sequence([decoders.BPEDecoder("z"), decoders.Strip("-", 1, 1)]),
    "Fuse, Replace words": decoders.Sequence([decoders.Fuse(), decoders.Replace("ab", "<>")]),
    "Fuse, Replace regex": decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex("b+$"), "end")]),
    "Fuse, Strip end": decoders.Sequence([decoders.Fuse(), decoders.Strip("b", 0, 1)]),
    "Fuse, WordPiece": decoders.Sequence([decoders.Fuse(), decoders.WordPiece()]),
    "Fuse, CTC": decoders.Sequence([decoders.Fuse(), decoders.CTC()]),
    "Fuse, BPE": decoders.Sequence([decoders.Fuse(), decoders.BPEDecoder()]),
    "Fuse, bytes": decoders.Sequence([decoders.Fuse(), decoders.ByteFallback()]),
    "bytes, ByteLevel": decoders.Sequence([decoders.ByteFallback(), decoders.ByteLevel()]),
    "bytes, WordPiece": decoders.Sequence([decoders.ByteFallback(), decoders.WordPiece()]),
    "bytes made": decoders.Sequence([decoders.Replace("ab", "<0x41>"), decoders.ByteFallback()]),
    "ByteLevel, Replace broken": decoders.Sequence([decoders.ByteLevel(), decoders.Replace(REPLACEMENT, "?")]),
}
DECODERS = STREAMED | AT_THE_END


def detokenizer(decoder, words=WORDS):
    import json

    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate([*BYTES, *words])}, unk_token="a"))
    backend.add_special_tokens([AddedToken(name, special=True) for name in CONTROLS])
    if decoder is not None:
        backend.decoder = decoder
    return Detokenizer(backend, json.loads(backend.to_str())["decoder"]), backend


def some_ids(choice, backend):
    """Whole characters byte by byte, words, broken bytes, control tokens, ids that nobody knows."""
    ids = []
    for _ in range(choice.randint(0, 12)):
        kind = choice.random()
        if kind < 0.35:
            ids += choice.choice("😀é床a \n\u0301b").encode()
        elif kind < 0.45:
            ids.append(choice.randrange(256))
        elif kind < 0.95:
            ids.append(256 + choice.randrange(len(WORDS)))
        else:
            ids.append(choice.choice([backend.token_to_id(CONTROLS[0]), 5000]))
    return ids


def whole(text, strings, include):
    """The text up to its first stop, by the definition: character by character."""
    for end in range(1, len(text) + 1):
        hits = [string for string in strings if text[:end].endswith(string)]
        if hits:
            longest = max(hits, key=len)
            return text[: end if include else end - len(longest)], longest
    return text, None


@pytest.mark.parametrize("kind", DECODERS)
def test_joined_pieces_are_the_whole(kind):
    subject, backend = detokenizer(DECODERS[kind])
    assert subject.is_incremental == (kind in STREAMED)
    choice = random.Random(kind)
    for _ in range(NUM_TEXTS):
        ids = some_ids(choice, backend)
        strings = tuple(choice.sample(STOPS, choice.choice([0, 0, 1, 2, 4])))
        include = choice.random() < 0.3
        final = subject.decode(ids)
        text, stop = whole(final, strings, include)
        rule = StopRule(strings=strings, include=include)
        transcript = Transcript(subject.decode, rule, is_incremental=subject.is_incremental)
        told, seen = "", 0
        while seen < len(ids) and not transcript.is_ended:
            seen = min(len(ids), seen + choice.choice([1, 1, 2, 5]))
            told += transcript.update(ids[:seen])
            assert text.startswith(told)
        told += transcript.update(ids, is_complete=True)
        assert (told, transcript.text, transcript.stop_reason) == (text, text, stop), ids
        if stop is None:
            assert transcript.token_ids == ids
            continue
        kept = transcript.token_ids
        assert kept == ids[: len(kept)]
        shown = subject.decode(kept)
        if kind in AT_THE_END:  # the spaces at its end may be there only with the token after them
            assert shown.startswith(text) or (text.startswith(shown) and text[len(shown) :].isspace()), (ids, kept)
        else:
            assert shown.startswith(text), (ids, kept)
        if subject.is_incremental and kept:  # they are the fewest
            assert not subject.decode(kept[:-1]).startswith(text)


@pytest.mark.parametrize("kind", DECODERS)
def test_whole_characters_decode_as_by_the_tokenizer(kind):
    subject, backend = detokenizer(DECODERS[kind])
    choice = random.Random(kind)
    for _ in range(50):
        words = [token for token in some_ids(choice, backend) if token > 255 and token != 256 + WORDS.index("<0xc3>")]
        pieces = [[token] for token in words]
        pieces += ([*character.encode(), 256 + WORDS.index(".")] for character in choice.choices("😀é床a \n", k=3))
        choice.shuffle(pieces)
        ids = [token for piece in pieces for token in piece]
        for skip in (True, False):
            assert subject.decode(ids, skip_special_tokens=skip) == backend.decode(ids, skip_special_tokens=skip)


def test_bpe_streams_where_its_suffix_ends_words():
    words = ["the</w>", "x</w>", "lo", "w</w>"]
    subject, _ = detokenizer(decoders.BPEDecoder(), words)
    assert subject.is_incremental
    transcript = Transcript(subject.decode, StopRule(), is_incremental=True)
    told = [transcript.update([256, 258, 259, 257][:count]) for count in (1, 2, 3, 4)]
    assert told == ["the", " lo", "w", " x"]
    stopped = Transcript(subject.decode, StopRule(strings=("low",)), is_incremental=True)
    stopped.update([256, 258, 259, 257], is_complete=True)
    assert (stopped.text, subject.decode(stopped.token_ids)) == ("the ", "the lo")


def test_a_broken_byte_costs_itself_alone():
    subject, backend = detokenizer(STREAMED["demo"])
    smile = list("😀".encode())
    assert backend.decode([*smile, 0xC3]) == REPLACEMENT * 5  # what it is about
    assert subject.decode([*smile, 0xC3]) == "😀" + REPLACEMENT
    assert subject.decode([0xE5, 0xBA, *smile, 0x80, 256 + WORDS.index("ab"), 0x41]) == "��😀�abA"
    end = backend.token_to_id(CONTROLS[0])
    assert subject.decode([0xC3, end, 0xA9]) == "é"  # as the tokenizer: control tokens are not there
    assert subject.decode([0xC3, end, 0xA9], skip_special_tokens=False) == "�<|end|>�"


@pytest.mark.parametrize("decoder", [["ByteLevel"], "x", 5, {}, {"type": "New"}, {"type": "Sequence", "decoders": 3}])
def test_a_decoder_that_is_not_known_gives_its_text_at_the_end(decoder):
    _, backend = detokenizer(decoders.Fuse())
    assert not Detokenizer(backend, decoder).is_incremental


def test_a_decoder_that_panics_is_a_typed_error():
    subject, _ = detokenizer(decoders.Strip("a", 1, 1))
    assert subject.decode([]) == ""
    with pytest.raises(TokenizerError, match="cannot be decoded"):
        subject.decode([256 + WORDS.index("a")])


@pytest.mark.parametrize("kind", ["ByteLevel", "Llama 2", "Gemma", "demo", "ByteFallback", "Fuse", "none", "Replace",
                                  "Metaspace never", "ByteLevel, Replace"])  # fmt: skip
def test_the_bytes_of_tokens_are_those_of_the_text(kind):
    """Joined they are the text, characters in parts included; Strip takes a space at its beginning alone."""
    subject, backend = detokenizer(
        DECODERS[kind], [word for word in WORDS if REPLACEMENT not in word and "Ã" not in word]
    )
    choice = random.Random(kind)
    for _ in range(NUM_TEXTS):
        ids = [token for token in some_ids(choice, backend) if backend.id_to_token(token) is not None]
        joined = b"".join(subject.token_bytes(token) for token in ids).decode("utf-8", "replace")
        text = subject.decode(ids, skip_special_tokens=False)
        if kind == "none":  # tokens are parted by spaces
            joined, text = joined.replace(" ", ""), text.replace(" ", "")
        if kind == "Llama 2":
            joined = joined.removeprefix(" ")
        if kind == "ByteLevel, Replace":
            joined = joined.replace("é", "e")
        assert joined.replace(REPLACEMENT, "") == text.replace(REPLACEMENT, "")


@pytest.mark.parametrize(
    ("kind", "words"),
    {
        "ByteLevel": {
            "Ġword": b" word",
            "Ċ": b"\n",
            "Ã": b"\xc3",
            "©": b"\xa9",
            "ðŁ": b"\xf0\x9f",
            "床前": "床前".encode(),
        },
        "Llama 2": {
            "▁the": b" the",
            "▁": b" ",
            "<0xC3>": b"\xc3",
            "<0xc3>": b"\xc3",
            "<0x+A>": b"\n",
            "é": "é".encode(),
        },
        "Metaspace": {"▁the": b" the", "a▁b": b"a b", "<0xC3>": b"<0xC3>"},
        "WordPiece": {"##ing": b"ing", "word": b" word"},
        "BPE": {"the</w>": b" the", "a": b"a"},
        "CTC": {"a": b"a", "<pad>": b""},
    }.items(),
)
def test_the_bytes_of_a_token(kind, words):
    subject, backend = detokenizer(DECODERS[kind])
    for word, expected in words.items():
        assert subject.token_bytes(backend.token_to_id(word)) == expected, word
    shown = b"< end >" if kind == "CTC" else b"<|end|>"
    assert subject.token_bytes(backend.token_to_id("<|end|>")).removeprefix(b" ") == shown
    assert subject.token_bytes(5000) is None


def test_byte_level_names_every_byte():
    words = pre_tokenizers.ByteLevel.alphabet()
    subject, backend = detokenizer(decoders.ByteLevel(), words)
    assert len(words) == 256
    assert {subject.token_bytes(backend.token_to_id(word)) for word in words} == {
        bytes([value]) for value in range(256)
    }
    for character in "é床😀 \n\x00\xad":
        spelt = [piece for piece, _ in pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(character)]
        names = [backend.token_to_id(name) for name in "".join(spelt)]
        assert b"".join(subject.token_bytes(token) for token in names) == character.encode()
