"""Grammar: the same texts as Python's re accepts, in size linear in the expression."""

import contextlib
import re
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llada_rt.errors import InvalidRequestError, RequestTooLargeError
from llada_rt.planning.characters import Characters, CharacterTable
from llada_rt.planning.expression import regex_of
from llada_rt.planning.grammar import Grammar
from llada_rt.planning.vocabulary import Alphabet

ALPHABET = "ab01 -_.,é\n一"
REGEXES = [
    "a",
    "ab|b",
    "(ab?)*",
    "[ab]{2,4}",
    "a+?b*?0",
    r"\d+\.\d{1,2}",
    r"\w\W\s\S",
    "[^a0]b?",
    r"(?:a|(?P<name>b0)){1,3}-",
    ".*a.",
    "(a*)*b",
    "(|a)b",
    "[a-b一]+,{0,2}",
    r"[\d_]+[^\w]",
    "((a|b)(0|1)){2}",
    "(a|b)*a(a|b){3}",
    r"-?(0|1[01]*)(\.[01]+)?",
]


def pick(characters: Characters) -> str | None:
    return next((character for character in ALPHABET if character in characters), None)


def accepts(grammar: Grammar, text: str) -> bool:
    return grammar.accepts(grammar.read(grammar.start, text))


@settings(max_examples=400, deadline=None)
@given(regex=st.sampled_from(REGEXES), text=st.text(alphabet=ALPHABET, max_size=8))
def test_it_accepts_what_re_accepts(regex, text):
    assert accepts(Grammar(regex, pick), text) == bool(re.fullmatch(regex, text))


@settings(max_examples=200, deadline=None)
@given(data=st.data(), regex=st.sampled_from(REGEXES))
def test_texts_of_the_expression_are_accepted_and_can_be_completed(data, regex):
    text = data.draw(st.from_regex(regex, fullmatch=True))
    grammar = Grammar(regex, pick)
    assert accepts(grammar, text)
    for length in range(len(text) + 1):
        states = grammar.read(grammar.start, text[:length])
        rest = grammar.shortest(states)
        if rest is None:  # it needs characters beyond the alphabet
            assert any(character not in ALPHABET for character in text[length:])
            continue
        assert re.fullmatch(regex, text[:length] + rest)
        if all(character in ALPHABET for character in text[length:]):
            assert len(rest) <= len(text) - length
        forced = grammar.forced(states)
        assert text[length:].startswith(forced)


def test_forced_text():
    grammar = Grammar("ab(0|1)ab-*", pick)
    assert grammar.forced(grammar.start) == "ab"
    assert grammar.forced(grammar.read(grammar.start, "ab0")) == "ab"
    assert grammar.forced(grammar.read(grammar.start, "ab0ab")) == ""
    assert grammar.can_go_on(grammar.read(grammar.start, "ab0ab-"))
    ended = Grammar("ab", pick)
    assert not ended.can_go_on(ended.read(ended.start, "ab"))


def test_what_cannot_be_written():
    assert Grammar("x", pick).shortest(Grammar("x", pick).start) is None
    grammar = Grammar("a(x|b0)", pick)
    assert grammar.shortest(grammar.start) == "ab0"


@pytest.mark.parametrize("texts", [["a"], ["a.b", "a+b", "(a"], ["ab", "abab", "b"], ["a\nb", "[é-一]"]])
def test_a_choice_is_these_texts_and_no_others(texts):
    grammar = Grammar(regex_of(texts), pick)
    assert all(accepts(grammar, text) for text in texts)
    assert not any(
        accepts(grammar, other)
        for other in ("", "aa", "axb", "ababab", *(text + "a" for text in texts))
        if other not in texts
    )


@pytest.mark.parametrize(
    "regex", ["(a|b)*a(a|b){60}", "(a+)+b", "(a*)*(a*)*(a*)*b", "((((a?){9}){9}){3})b", "(a|a|a|aa)*b"]
)
def test_no_expression_takes_long(regex):
    began = time.process_time()
    grammar = Grammar(regex, pick)
    states = grammar.read(grammar.start, "a" * 200)
    assert grammar.shortest(states) is not None
    assert time.process_time() - began < 5


HAN = [chr(code) for code in range(0x4E00, 0x4E00 + 1000)]
ASCII = [*map(chr, range(ord("a"), ord("z"))), *map(chr, range(ord("A"), ord("Z")))]
HOSTILE = [  # within the bounds, and as bad as these let it be
    "(.?){4000}",
    "(.*){3000}",
    ".{1,9000}",
    "(.?){1000}(a?){2000}",
    "(?:" + "".join(f"[^{c}]?" for c in HAN[:600]) + "){4}",
    "(x|(?:" + "".join(f"[^{c}]?" for c in ASCII) + "){30}.{60})",
    "([" + "".join(HAN) + "]?){3000}",
    "(" + "|".join(HAN) + ")*",
    "".join(f"[{c}]?" for c in HAN),
    r"(\w?\W?\d?\D?\s?\S?){500}",
    "((|)*){3000}",
    "(a|b)*a(a|b){3000}",
    "(.{0,40}){100}a{2000}",
    "(|||||||||||){1000}",
    "".join(f"[{chr(0xE000 + n)}-{chr(0xE010 + n)}]?" for n in range(0, 1360, 2)),
]
ENDLESS = [
    "(){4000000000}",
    "((((){9999}){9999}){9999}){9999}",
    "(?:(){60000}a){999}",
    "(?:){4000000000}",
    "(a{0}){4000000000}",
    "(?:(?:){0,4000000000})*",
    "(|){4000000000}",
    "(a{4294967294}){4294967294}",
    "(" * 49 + "a" + "){4294967294}" * 49,
    "(.?){6000}",
]


@pytest.mark.parametrize("regex", HOSTILE, ids=lambda regex: regex[:20])
def test_no_expression_is_slow_or_large(regex):
    """Made, asked about characters and tokens, read for some: a second and some megabytes, or it says what it lacks."""
    characters = [*map(chr, range(32, 127)), *map(chr, range(0x4E00, 0x4E00 + 4000))]
    pairs = [first + second for first in characters[:500] for second in "a一"]
    alphabet = Alphabet([*characters, *pairs], list, "".join)
    tracemalloc.start()
    try:
        began = time.process_time()
        grammar = Grammar(regex, pick)
        states = grammar.start
        for character in "abab":
            grammar.allow()
            grammar.shortest(states)
            with contextlib.suppress(RequestTooLargeError):
                grammar.forced(states)
            grammar.allow()
            states = grammar.read(states, character)
        assert time.process_time() - began < 10  # a tenth of it without tracemalloc
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * 2**20, peak
    began = time.process_time()
    grammar.allow()
    with contextlib.suppress(RequestTooLargeError):
        alphabet.tree(grammar).read(grammar, grammar.start)
    assert time.process_time() - began < 2


@pytest.mark.parametrize("regex", ENDLESS, ids=lambda regex: regex[:20])
def test_what_would_take_for_ever_is_refused_at_once(regex):
    began = time.process_time()
    with pytest.raises(InvalidRequestError, match=r"at most 20000 steps when written out, got [0-9m]"):
        Grammar(regex, pick)
    assert time.process_time() - began < 1


def test_beyond_its_allowance_it_says_so_and_goes_on_with_the_next():
    grammar = Grammar("(.?){1000}", pick)
    grammar.allow(100)
    with pytest.raises(RequestTooLargeError, match=r"within 100 steps, and this takes \d+ or more"):
        grammar.read(grammar.start, "a")
    grammar.allow()
    assert grammar.accepts(grammar.read(grammar.start, "a"))
    began = time.process_time()
    grammar = Grammar("(aa?){3000}", pick)  # each of 3000 characters that must come reads from more places
    with pytest.raises(RequestTooLargeError):
        grammar.forced(grammar.start)
    assert time.process_time() - began < 3


@settings(max_examples=200, deadline=None)
@given(regex=st.sampled_from(REGEXES), text=st.text(alphabet=ALPHABET, max_size=5))
def test_which_characters_may_come_next(regex, text):
    grammar = Grammar(regex, pick)
    table = CharacterTable(ALPHABET)
    states = grammar.read(grammar.start, text)
    may = [bool(grammar.after(states, each)) for each in grammar.classes(table).tolist()]
    assert may == [bool(grammar.read(states, character)) for character in ALPHABET]
    assert grammar.can_go_on(states) >= any(may)


@given(low=st.sampled_from("a0一"), more=st.integers(0, 30), negated=st.booleans(), category=st.booleans())
def test_a_table_asks_as_in_does(low, more, negated, category):
    characters = Characters(
        ((ord(low), ord(low) + more),), (("CATEGORY_DIGIT", False),) if category else (), is_negated=negated
    )
    assert CharacterTable(ALPHABET).among(characters).tolist() == [each in characters for each in ALPHABET]


def test_a_node_may_read_and_go_on_without_reading():
    grammar = Grammar("(ab?)*", pick)
    assert grammar.shortest(grammar.start) == ""
    assert grammar.shortest(grammar.read(grammar.start, "a")) == ""
    assert Grammar("(ab?)*b0", pick).shortest(Grammar("(ab?)*b0", pick).start) == "b0"


@pytest.mark.parametrize(
    ("regex", "words"),
    [
        ("(" * 101 + "a" + ")*" * 101, "at most 100 groups"),
        ("(a", "missing"),
        ("[", "unterminated"),
        ("*", "nothing to repeat"),
        ("", "1 to 4096"),
        ("a" * 5000, "1 to 4096"),
        (3, "1 to 4096"),
        ("^a", "anchors"),
        ("a$", "anchors"),
        (r"\ba", "anchors"),
        ("(?=a)a", "look-around"),
        ("(?<!a)b", "look-around"),
        (r"(a)\1", "back-references"),
        ("(?i)a", "flags"),
        ("(?i:a)", "flags"),
        ("(?>a)", "atomic"),
        ("a++", "possessive"),
        ("((a{99}){99}){99}", "too large"),
        ("a{99999999}", "too large"),
        ("(" * 3000 + ")" * 3000, "1 to 4096"),
        ("(" * 1500 + "a" + ")" * 1500, "regex"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_refused(regex, words):
    with pytest.raises(InvalidRequestError, match=words):
        Grammar(regex, pick)
