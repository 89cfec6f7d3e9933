"""Transcript: joined pieces are the whole, whatever the pieces; nothing after a stop; no broken character."""

import random

import pytest

from llada_rt.text.transcript import REPLACEMENT, StopRule, Transcript

END, OTHER_END = 300, 301
TEXTS = [
    "plain words, then more words",
    "床前明月光，疑是地上霜。",
    "a👩‍🚀b🇨🇳c naïve e\u0301",
    "aaabaaabaab",
    "\n\n1. one\n2. two\n\nEND of it",
    "tail �� inside � and at the end �",
]
STOPS = ["aab", "aaab", "\n\n", "END", "月光", "光", "🇨", "of", "it", " and", "�", "words, then", "zzz", "b", "ba"]


def decode(ids):
    """As a byte-level tokenizer: an id below 256 is a byte; what is not UTF-8 shows as replacement characters."""
    return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")


def whole(ids, rule):
    """The definition, character by character: (text, stop that ended it or None, an end was met)."""
    for index, token in enumerate(ids):
        if token in rule.end_tokens or token in rule.token_ids:
            mine = token in rule.token_ids
            text, stop, _ = whole(
                ids[: index + (mine and rule.include)], StopRule(strings=rule.strings, include=rule.include)
            )
            return text, (stop if stop is not None else token if mine else None), True
    text = decode(ids)
    for end in range(1, len(text) + 1):
        hits = [s for s in rule.strings if text[:end].endswith(s)]
        if hits:
            longest = max(hits, key=len)
            return text[: end if rule.include else end - len(longest)], longest, True
    return text, None, False


def pieces_of(choice, ids):
    """The growing prefixes of a canvas that fills in some order."""
    masked = set(range(len(ids)))
    order = sorted(masked, key=lambda i: (i // choice.choice([1, 4, 50]), choice.random()))
    while order:
        for _ in range(choice.choice([1, 1, 2, 5, 30])):
            if order:
                masked.discard(order.pop(0))
        yield ids[: min(masked, default=len(ids))]


@pytest.mark.parametrize("seed", range(20))
def test_joined_pieces_are_the_whole(seed):
    choice = random.Random(seed)
    for _ in range(100):
        data = list("".join(choice.choices(TEXTS, k=choice.randint(1, 3))).encode())
        for _ in range(choice.choice([0, 0, 1, 3])):  # broken characters and ends anywhere
            data.insert(choice.randrange(len(data) + 1), choice.choice([END, OTHER_END, 0xE5, 0x80, 0xF0]))
        rule = StopRule(
            end_tokens=frozenset(choice.choice([(), (END,)])),
            token_ids=frozenset(choice.choice([(), (OTHER_END,), (ord("o"),)])),
            strings=tuple(choice.sample(STOPS, choice.choice([0, 0, 1, 3, 6]))),
            include=choice.random() < 0.3,
        )
        text, stop, is_ended = whole(data, rule)
        transcript = Transcript(decode, rule, is_incremental=choice.random() < 0.9)
        told, seen = "", 0
        for ids in pieces_of(choice, data):
            piece = transcript.update(ids)
            assert transcript.text == told + piece
            told += piece
            assert text.startswith(told)
            if transcript.is_ended:
                seen = len(ids)
                break
        told += transcript.update(data if not transcript.is_ended else data[:seen], is_complete=True)
        assert told == transcript.text == text
        assert (transcript.stop_reason, transcript.is_ended) == (stop, is_ended)
        # The ids are the fewest whose text holds the text, and all before an end.
        assert decode(transcript.token_ids).startswith(text.rstrip(REPLACEMENT))
        if isinstance(stop, str) and text and REPLACEMENT not in text:
            assert not decode(transcript.token_ids[:-1]).rstrip(REPLACEMENT).startswith(text)


def test_only_what_may_become_a_stop_is_held_back():
    transcript = Transcript(decode, StopRule(strings=("abcd", "cx")), is_incremental=True)
    told = [transcript.update(list(b"__abcabcx"[:n])) for n in range(1, 10)]
    assert told == ["_", "_", "", "", "", "abc", "", "", "ab"]
    assert (transcript.text, transcript.stop_reason, transcript.is_ended) == ("__abcab", "cx", True)
    assert transcript.update(list(b"__abcabcxyz"), is_complete=True) == ""


def test_of_two_stops_the_one_that_is_complete_first_counts():
    for strings in (("b", "abc"), ("abc", "b")):
        transcript = Transcript(decode, StopRule(strings=strings), is_incremental=True)
        transcript.update(list(b"xabcb"), is_complete=True)
        assert (transcript.text, transcript.stop_reason) == ("xa", "b")
    both = Transcript(decode, StopRule(strings=("bc", "abc")), is_incremental=True)
    both.update(list(b"xabc"), is_complete=True)
    assert (both.text, both.stop_reason) == ("x", "abc")


def test_a_character_waits_for_its_last_byte():
    transcript = Transcript(decode, StopRule(), is_incremental=True)
    data = list("霜".encode())
    assert [transcript.update(data[:n]) for n in (1, 2, 3)] == ["", "", "霜"]
    broken = Transcript(decode, StopRule(), is_incremental=True)
    assert [broken.update(data[:2]), broken.update(data[:2], is_complete=True)] == ["", REPLACEMENT]


def test_a_decoder_that_rewrites_endings_gives_its_text_at_the_end():
    def rewriting(ids):
        return decode(ids).strip()

    transcript = Transcript(rewriting, StopRule(strings=("z",)), is_incremental=False)
    assert [transcript.update(list(b" a b "[:n])) for n in range(6)] == [""] * 6
    assert transcript.update(list(b" a b "), is_complete=True) == "a b"


def test_without_a_tokenizer_there_are_ids_and_no_text():
    transcript = Transcript(None, StopRule(end_tokens=frozenset([END]), token_ids=frozenset([7])), is_incremental=True)
    assert transcript.update([1, 2, 7, 3]) == ""
    assert (transcript.token_ids, transcript.stop_reason, transcript.is_ended) == ([1, 2], 7, True)
