"""Which tokens a grammar can read, and which of these leave room for the rest: as asked token by token."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llada_rt.errors import RequestTooLargeError
from llada_rt.planning import token_grammar, vocabulary
from llada_rt.planning.grammar import Grammar
from llada_rt.planning.token_grammar import TokenGrammar
from llada_rt.planning.vocabulary import Alphabet
from tests.planning.test_grammar import ALPHABET, REGEXES

TEXTS = st.lists(st.text(alphabet=ALPHABET, max_size=4), max_size=40)


def alphabet_of(texts: list[str]) -> Alphabet:
    """A tokenizer that writes the longest token it has, and each character anyway."""

    def encode(text: str) -> list[int]:
        ids = []
        while text:
            longest = max((each for each in texts if each and text.startswith(each)), key=len)
            ids.append(texts.index(longest))
            text = text[len(longest) :]
        return ids

    texts = [*texts, *ALPHABET]
    return Alphabet(texts, encode, lambda ids: "".join(texts[token] for token in ids))


def tokens_in(words: np.ndarray | None) -> list[int]:
    return [] if words is None else np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist()


@settings(max_examples=200, deadline=None)
@given(texts=TEXTS, regex=st.sampled_from(REGEXES), read=st.text(alphabet=ALPHABET, max_size=4), large=st.booleans())
def test_readable_tokens(texts, regex, read, large):
    alphabet = alphabet_of(texts)
    grammar = Grammar(regex, alphabet.pick)
    states = grammar.read(grammar.start, read)
    with pytest.MonkeyPatch.context() as patch:
        if large:  # as of vocabularies and grammars that are
            patch.setattr(vocabulary, "_MAX_FLAGS", 0)
            patch.setattr(vocabulary, "_MOST_CLASSES", 0)
        tree = alphabet.tree(grammar)
        found = tree.read(grammar, states)
    reached = found.reached[tree.node_of].tolist()
    told = {token: found.states[index] for token, index in enumerate(reached) if index >= 0}
    after = {token: grammar.read(states, text) for token, text in enumerate(alphabet.texts) if text}
    assert told == {token: reached for token, reached in after.items() if reached}
    assert len(set(found.states)) == len(found.states)


@settings(max_examples=200, deadline=None)
@given(
    texts=TEXTS,
    regex=st.sampled_from(REGEXES),
    read=st.text(alphabet=ALPHABET, max_size=3),
    places=st.integers(1, 6),
    beyond=st.integers(0, 3),
)
def test_allowed_tokens_leave_room_for_the_rest(texts, regex, read, places, beyond):
    alphabet = alphabet_of(texts)
    vocab_size = len(alphabet.texts) - beyond  # tokens without a row of the head are never allowed
    grammar = TokenGrammar(Grammar(regex, alphabet.pick), alphabet, vocab_size)
    states = grammar.grammar.read(grammar.grammar.start, read)
    words = grammar.allowed(states, places, ())
    want = []
    for token, text in enumerate(alphabet.texts[:vocab_size]):
        after = grammar.grammar.read(states, text) if text else 0
        rest = grammar.grammar.shortest(after) if after else None
        if rest is not None and len(alphabet.encode(rest)) < places:
            want.append(token)
        assert bool(grammar.reads(states, token, places)) == (token in want)
    assert tokens_in(words) == want
    assert (words is None) == (not want)
    if words is not None:
        assert words.shape == (-(-vocab_size // 32),)


def test_end_tokens_are_allowed_beside_the_readable_ones():
    alphabet = alphabet_of(["", "", "ab"])
    grammar = TokenGrammar(Grammar("ab", alphabet.pick), alphabet, len(alphabet.texts))
    assert tokens_in(grammar.allowed(grammar.grammar.start, 3, (1, 10**6))) == [1, 2, alphabet.texts.index("a")]
    over = grammar.grammar.read(grammar.grammar.start, "ab")
    assert grammar.allowed(over, 3, ()) is None
    assert tokens_in(grammar.allowed(over, 3, (0,))) == [0]


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(token_grammar, "_MAX_KEPT_NODES", 50)
    alphabet = alphabet_of([first + second for first in "ab" for second in "ab"])
    grammar = TokenGrammar(Grammar("[ab]{1,40}", alphabet.pick), alphabet, len(alphabet.texts))
    states, first = grammar.grammar.start, grammar.allowed(grammar.grammar.start, 50, ())
    for _ in range(30):
        assert grammar.allowed(states, 50, ()) is not None
        states = grammar.grammar.read(states, "a")
    assert sum(len(each.reached) for each in grammar._readable.values()) == grammar._num_kept <= 50
    assert np.array_equal(grammar.allowed(grammar.grammar.start, 50, ()), first)


def test_work_is_paid_for():
    alphabet = alphabet_of(["a" * count for count in range(1, 60)])
    grammar = TokenGrammar(Grammar("(.?){2000}", alphabet.pick), alphabet, len(alphabet.texts))
    grammar.grammar.allow(5000)
    with pytest.raises(RequestTooLargeError):
        grammar.allowed(grammar.grammar.start, 10, ())


def test_a_vocabulary_without_texts_reads_nothing():
    alphabet = Alphabet(["", ""], list, str)
    grammar = Grammar("a", alphabet.pick)
    tree = alphabet.tree(grammar)
    assert tree.node_of.tolist() == [0, 0]
    assert tree.read(grammar, grammar.start).reached.tolist() == [-1]


def test_tokens_that_look_alike_share_a_node():
    alphabet = alphabet_of(["ab", "ba", "bb", "a0", "é0"])
    node_of = alphabet.tree(Grammar("[ab]*0", alphabet.pick)).node_of.tolist()
    assert node_of[0] == node_of[1] == node_of[2] != node_of[3] != node_of[4]
