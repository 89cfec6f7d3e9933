"""Stop strings that name control tokens: they fire although the text never shows them, whatever the pieces."""

import random

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models

from llada_rt.text.detokenizer import Detokenizer
from llada_rt.text.transcript import StopRule, Transcript

NAMES = ["<|end|>", "<|im|>", "<|im|>x", "[SEP]"]
SHOWN = dict(zip(NAMES, "①②③④", strict=True))
CHARACTERS = "abxé\n"
STOPS = [
    *["<|end|>", "<|im|>", "[SEP]", "<|im|>a", "a<|end|>", "\n<|im|>", "<|im|>x", "<|end|><|im|>", "é<|im|>ab[SEP]"],
    *["ab<|end|>b", "<|end|>\n<|end|>", "<|end|>ba", "<|unknown|>", "<|en", "a", "b", "ba", "\n", "bx", "é"],
]


def subject(decoder):
    words = {f"<0x{value:02X}>": value for value in range(256)} | {"ab": 256, "xé": 257}
    backend = Tokenizer(models.WordLevel(words, unk_token="ab"))
    backend.decoder = decoder
    backend.add_special_tokens([AddedToken(name, special=True) for name in NAMES])
    return Detokenizer(backend, {"type": "ByteFallback"}), backend


def whole(shown, strings, include):
    """The definition: the string with control tokens as single characters, read one after the other."""
    known = sorted(NAMES, key=len, reverse=True)
    taken_apart = {}
    for string in strings:
        marked = string
        for name in known:
            marked = marked.replace(name, SHOWN[name])
        taken_apart[string] = marked

    def visible(text):
        return "".join(character for character in text if character not in SHOWN.values())

    for end in range(1, len(shown) + 1):
        text, plain = shown[:end], visible(shown[:end])
        hits = []
        for string, marked in taken_apart.items():
            if marked != string and text.endswith(marked):
                hits.append((len(visible(text[: end - len(marked)])), string))
            elif marked == string and text[-1] not in SHOWN.values() and plain.endswith(string):
                hits.append((len(plain) - len(string), string))
        if hits:
            start = min(start for start, _ in hits)
            return plain if include else plain[:start], {string for place, string in hits if place == start}
    return visible(shown), {None}


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_they_end_the_text_where_the_definition_says(seed, include):
    choice = random.Random(seed)
    detokenizer, backend = subject(decoders.ByteFallback())
    for _ in range(150):
        ids, shown = [], ""
        for _ in range(choice.randint(0, 12)):
            if choice.random() < 0.4:
                name = choice.choice(NAMES)
                ids.append(backend.token_to_id(name))
                shown += SHOWN[name]
            elif choice.random() < 0.3:
                ids.append(choice.choice([256, 257]))
                shown += "ab" if ids[-1] == 256 else "xé"
            else:
                shown += choice.choice(CHARACTERS)
                ids += shown[-1].encode()
        strings = tuple(choice.sample(STOPS, choice.randint(1, 4)))
        text, stops = whole(shown, strings, include)
        rule = StopRule(
            strings=strings,
            include=include,
            controls=detokenizer.control_stops(strings),
            control_ids=frozenset(detokenizer.control_tokens),
        )
        for incremental in (True, False):
            transcript = Transcript(detokenizer.decode, rule, is_incremental=incremental)
            told, seen = "", 0
            while seen < len(ids) and not transcript.is_ended:
                seen = min(len(ids), seen + choice.choice([1, 1, 2, 5]))
                told += transcript.update(ids[:seen])
                assert text.startswith(told), (ids, strings)
            told += transcript.update(ids, is_complete=True)
            assert told == transcript.text == text, (ids, strings, stops)
            assert transcript.stop_reason in stops
            kept = transcript.token_ids
            assert kept == ids[: len(kept)]
            assert detokenizer.decode(kept).startswith(text)
            if None in stops:
                assert kept == ids
            elif not include:  # they are the fewest
                assert not kept or not detokenizer.decode(kept[:-1]).startswith(text)


def test_what_may_become_one_is_held_back():
    detokenizer, backend = subject(decoders.ByteFallback())
    end, im = (backend.token_to_id(name) for name in NAMES[:2])
    strings = ("ab<|end|>b",)
    rule = StopRule(strings=strings, controls=detokenizer.control_stops(strings), control_ids=frozenset([end, im]))
    ids = [ord("x"), ord("a"), ord("b"), end, ord("a"), ord("a"), ord("b"), im, 256, end, ord("b"), ord("x")]
    transcript = Transcript(detokenizer.decode, rule, is_incremental=True)
    told = [transcript.update(ids[:count]) for count in range(1, len(ids) + 1)]
    # That the stop may also be spelled out in plain text holds "ab" for one id more at the second control token.
    assert told == ["x", "", "", "", "ab", "a", "", "", "ab", "", "", ""]
    assert transcript.text == "".join(told)
    assert (transcript.stop_reason, transcript.token_ids) == (strings[0], ids[:7])


def test_an_end_token_of_the_model_may_be_the_stop():
    detokenizer, backend = subject(decoders.ByteFallback())
    end = backend.token_to_id("<|end|>")
    ids = [*b"ab", end, *b"junk"]
    for strings, reason in ((("<|end|>",), "<|end|>"), (("b<|end|>",), "b<|end|>"), (("<|end|>j",), None)):
        for include in (False, True):
            rule = StopRule(
                end_tokens=frozenset([end]),
                strings=strings,
                include=include,
                controls=detokenizer.control_stops(strings),
                control_ids=frozenset([end]),
            )
            transcript = Transcript(detokenizer.decode, rule, is_incremental=True)
            transcript.update(ids, is_complete=True)
            text = "a" if strings[0].startswith("b") and not include else "ab"
            assert (transcript.text, transcript.stop_reason, transcript.is_ended) == (text, reason, True)
            assert transcript.token_ids == ids[: len(text) + (include and reason is not None)]
