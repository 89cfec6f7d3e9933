"""TokenGrammar: which tokens may come next so that a grammar's text can still be completed in the places left."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from .expression import States
from .grammar import Grammar
from .vocabulary import Alphabet, Readable

_CHARACTER_WORK = 5  # to encode one, in places read from
_MAX_KEPT = 4096  # lengths kept
_MAX_KEPT_NODES = 1 << 20  # of trees, 4 bytes each


class TokenGrammar:
    """A grammar over the tokens of a model. The samples of a request share one; one thread at a time.

    What it is asked is paid for out of the grammar's allowance, see `Grammar`.
    """

    def __init__(self, grammar: Grammar, alphabet: Alphabet, vocab_size: int) -> None:
        self.grammar = grammar
        self.alphabet = alphabet
        self.vocab_size = vocab_size  # rows of the head
        self._rest_lengths: dict[States, int | None] = {}
        self._readable: OrderedDict[States, Readable] = OrderedDict()
        self._num_kept = 0  # nodes of these
        self._tree = alphabet.tree(grammar)
        self._node_of = self._tree.node_of[:vocab_size]

    def allowed(self, states: States, num_places: int, ends: Iterable[int]) -> NDArray[np.uint32] | None:
        """The set of tokens after which the text can be completed in one place less; None: it is empty.

        Shape (vocab_size / 32, rounded up); token t is bit t % 32 of word t // 32. `ends` are in the set too.
        """
        readable = self._readable_in(states)
        lengths = [self.rest_length(each) for each in readable.states]
        fits = np.array([length is not None and length < num_places for length in lengths] + [False])
        is_in = np.zeros(-(-self.vocab_size // 32) * 32, dtype=np.bool_)
        is_in[: len(self._node_of)] = fits[readable.reached][self._node_of]
        is_in[[token for token in ends if token < self.vocab_size]] = True
        return np.packbits(is_in, bitorder="little").view("<u4") if is_in.any() else None

    def reads(self, states: States, token: int, num_places: int) -> States:
        """The states after a token that may be written into the first of so many places; 0: it may not."""
        text = self.alphabet.texts[token] if token < len(self.alphabet.texts) else ""
        after = self.grammar.read(states, text) if text else 0
        length = self.rest_length(after) if after else None
        return after if length is not None and length < num_places else 0

    def rest(self, states: States) -> list[int] | None:
        """Tokens of the shortest text that completes one begun; None: it cannot be completed."""
        text = self.grammar.shortest(states)
        return None if text is None else self.encode(text)

    def rest_length(self, states: States) -> int | None:
        """How many these are."""
        if states not in self._rest_lengths:
            rest = self.rest(states)
            if len(self._rest_lengths) >= _MAX_KEPT:
                self._rest_lengths.clear()
            self._rest_lengths[states] = None if rest is None else len(rest)
        return self._rest_lengths[states]

    def encode(self, text: str) -> list[int]:
        self.grammar.spend(_CHARACTER_WORK * len(text))
        return self.alphabet.encode(text) if text else []

    def _readable_in(self, states: States) -> Readable:
        if states in self._readable:
            self._readable.move_to_end(states)
            return self._readable[states]
        found = self._tree.read(self.grammar, states)
        self._readable[states] = found
        self._num_kept += len(found.reached)
        while self._num_kept > _MAX_KEPT_NODES and len(self._readable) > 1:
            _, dropped = self._readable.popitem(last=False)
            self._num_kept -= len(dropped.reached)
        return found
