"""Grammar: the same texts as Python's re accepts, in size linear in the expression."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llada_rt.errors import InvalidRequestError
from llada_rt.grammar import Characters, Grammar, regex_of

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


@pytest.mark.parametrize(
    ("regex", "words"),
    [
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
