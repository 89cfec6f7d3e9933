"""Constraint: a stretch of the canvas whose text a grammar must accept. Its tokens are written from left to right.

At each step the token at the first mask is the best one after which the text can still be completed in the positions
that are left; what must come next anyway is written without asking the model. With a threshold the tokens after it are
written too as long as the model is that sure of them. So the text is always one that the grammar accepts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidRequestError, TokenizerError
from ..excerpt import excerpt_of
from .characters import Characters, CharacterTable
from .expression import States
from .grammar import Grammar
from .logits import GuidedRows, HiddenRows, num_rows_in_piece
from .plan import Alternative, Commit, QuerySpan, SequencePlan, SequenceResult, Span

FILL_STEP = -1  # `step` of a commit that only fills what the text has left over
MAX_TOKENS_PER_STEP = 32  # that the model is asked for at once
_MAX_TRIED = 200_000  # candidates of one step, after which it ends with the tokens it has
_MAX_KEPT = 4096  # answers kept
_MAX_PICKED = 64  # characters of a set that are tried
_CHARACTER_WORK = 5  # to encode one, in places read from


class Encode(Protocol):
    def __call__(self, text: str) -> list[int]: ...


class Decode(Protocol):
    def __call__(self, ids: Sequence[int]) -> str: ...


class Alphabet:
    """The tokens of a model as pieces of text. Those that are special, or no whole characters, are not among them."""

    def __init__(self, texts: Sequence[str], encode: Encode, decode: Decode) -> None:
        self.texts = texts
        self.encode = encode
        self.decode = decode
        self.firsts = CharacterTable(dict.fromkeys(text[0] for text in texts if text))
        index = {character: number for number, character in enumerate(self.firsts.characters)}
        # The first character of each token as an index into these; tokens without text have the last index.
        self.first_of = np.array([index[text[0]] if text else len(index) for text in texts], dtype=np.int64)
        self._alone = CharacterTable(text for text in dict.fromkeys(texts) if len(text) == 1)
        self._is_written: dict[str, bool] = {}  # of characters that are no token

    def pick(self, characters: Characters) -> str | None:
        """A character of the set, one that is a token if there is such."""
        inside = self._alone.among(characters)
        if inside.any():
            return self._alone.characters[int(np.argmax(inside))]
        if characters.is_negated:
            return None
        some = (chr(code) for low, high in characters.ranges for code in range(low, min(high, low + 16) + 1))
        return next((character for character in islice(some, _MAX_PICKED) if self._writes(character)), None)

    def _writes(self, character: str) -> bool:
        if character not in self._is_written:
            if len(self._is_written) >= _MAX_KEPT:
                self._is_written.clear()
            try:
                self._is_written[character] = self.decode(self.encode(character)) == character
            except (InvalidRequestError, TokenizerError):
                self._is_written[character] = False
        return self._is_written[character]


class Steps(Protocol):
    """What a constrained step asks of the runner."""

    def canvas(self, slot: int) -> list[int]: ...
    def write(self, slot: int, tokens: Sequence[int]) -> None: ...
    def hidden(self, slot: int, spans: Sequence[QuerySpan], positions: Sequence[int]) -> HiddenRows: ...


class Constraint:
    """One stretch of one canvas. `ends`: tokens by which the model ends it early; `fill`: what follows then.

    Raises InvalidRequestError if even the shortest text of the grammar does not fit, RequestTooLargeError, in a step
    too, if the grammar's allowance does not reach.
    """

    def __init__(
        self,
        grammar: Grammar,
        alphabet: Alphabet,
        span: Span,
        *,
        ends: frozenset[int],
        fill: int,
        threshold: float | None = None,
    ) -> None:
        self.span = span
        self._grammar, self._alphabet = grammar, alphabet
        self._ends, self._fill, self._threshold = ends, fill, threshold
        self._states = grammar.start
        self._rest_lengths: dict[States, int | None] = {}
        self._ids: list[int] = []  # written
        self._text = ""  # the same as text, token by token
        self._num_tried = 0  # candidates, in the step under way
        self._is_over = False  # nothing more is written; what is left over is filled
        grammar.allow()
        grammar.readable(grammar.start, alphabet.firsts)  # the work of the first time, while nobody waits for it
        rest = self._rest(self._states)
        if rest is None:
            raise InvalidRequestError("the tokenizer can write no text that the constraint accepts", param="segments")
        if len(rest) > len(span):
            shortest = excerpt_of(alphabet.decode(rest), 80)
            raise InvalidRequestError(
                f"the shortest text that the constraint accepts, {shortest}, takes {len(rest)} "
                f"tokens: expected a hole of so many at least, got {len(span)}",
                param="segments",
            )

    def step(self, steps: Steps, plan: SequencePlan, tokens: Sequence[int]) -> SequenceResult:
        """Write one token or more; one forward, or none if all that is left is forced. tokens: the whole canvas."""
        mask_id = plan.sampling.mask_id
        self._grammar.allow()
        self._num_tried = 0
        places = deque(position for position in range(self.span.start, self.span.stop) if tokens[position] == mask_id)
        commits: list[Commit] = []
        self._force(places, commits)
        num_steps = num_rows = 0
        if places and not self._is_over:
            num_steps, num_rows = 1, sum(map(len, plan.first_query))
            self._choose(steps, plan, places, commits)
        if self._is_over or not places:
            self._check()
            commits += [Commit(place, self._fill, 1.0, FILL_STEP, 0.0) for place in places]
            places.clear()
        for slot in (plan.slot, plan.guide_slot):
            if slot >= 0:
                canvas = steps.canvas(slot)
                for commit in commits:
                    canvas[commit.position] = commit.token
                steps.write(slot, canvas)
        num_refreshes = int(num_rows == len(tokens))
        return SequenceResult(num_rows, num_refreshes, num_steps, len(places), not places, tuple(commits))

    def _force(self, places: deque[int], commits: list[Commit]) -> None:
        """Write what the grammar leaves no choice about; see whether it is over."""
        text = self._grammar.forced(self._states)
        ids = self._encode(text) if text else []
        states = self._grammar.read(self._states, text)
        rest = self._rest_length(states)
        if rest is not None and len(ids) + rest <= len(places):
            commits += [Commit(places.popleft(), token, 1.0, 0, 0.0) for token in ids]
            self._ids += ids
            self._text += text
            self._states = states
        self._is_over = not self._grammar.can_go_on(self._states)

    def _choose(self, steps: Steps, plan: SequencePlan, places: deque[int], commits: list[Commit]) -> None:
        """Write the first token by the model's logits and, with a threshold, those after it that it is sure of."""
        rows = _Rows(steps, plan, list(islice(places, MAX_TOKENS_PER_STEP if self._threshold is not None else 1)))
        is_first = True
        while places and not self._is_over and places[0] in rows and (is_first or self._num_tried < _MAX_TRIED):
            row = rows.at(places[0])
            log_probs = row - np.max(row)
            log_probs -= np.log(np.sum(np.exp(log_probs)))
            token = self._best(row, plan, places)
            if token is None:  # only a text in pieces of characters is left
                rest = self._rest(self._states) or []
                commits += [Commit(places.popleft(), each, 1.0, 0, 0.0) for each in rest]
                self._ids += rest
                self._text += self._grammar.shortest(self._states) or ""
                self._is_over = True
                return
            log_prob = float(log_probs[token])
            if not is_first and self._threshold is not None and np.exp(log_prob) < self._threshold:
                return
            is_first = False
            if token in self._ends:
                self._is_over = True
                return
            alternatives = most_probable(log_probs, plan.sampling.num_alternatives)
            commits.append(Commit(places.popleft(), token, float(np.exp(log_prob)), 0, log_prob, alternatives))
            self._ids.append(token)
            self._text += self._alphabet.texts[token]
            self._states = self._grammar.read(self._states, self._alphabet.texts[token])
            self._force(places, commits)

    def _best(self, row: NDArray[np.float64], plan: SequencePlan, places: deque[int]) -> int | None:
        """The best token, or end token, after which what is left can still be written. row: (vocabulary,)."""
        rule = plan.sampling
        may_begin = np.append(self._grammar.readable(self._states, self._alphabet.firsts), False)
        is_complete = self._grammar.accepts(self._states)
        ends = [token for token in self._ends if is_complete and token != rule.suppressed_token]
        begun = np.flatnonzero(may_begin[self._alphabet.first_of])
        candidates = np.concatenate([begun, np.array(ends, dtype=np.int64)])
        scores = row[candidates]
        if rule.temperature > 0:
            noise = np.random.Generator(np.random.Philox(key=rule.seed, counter=[plan.step, places[0], 0, 0]))
            scores = scores - rule.temperature * np.log(-np.log(noise.random(len(row))[candidates]))
        for token in candidates[np.argsort(-scores, kind="stable")].tolist():
            if token in self._ends:
                return int(token)
            self._num_tried += 1
            rest = self._rest_length(self._grammar.read(self._states, self._alphabet.texts[token]))
            if rest is not None and rest < len(places):
                return int(token)
        return None

    def _rest(self, states: States) -> list[int] | None:
        """Tokens of the shortest text that completes one begun; None: it cannot be completed."""
        text = self._grammar.shortest(states)
        return None if text is None else self._encode(text)

    def _rest_length(self, states: States) -> int | None:
        if states not in self._rest_lengths:
            if len(self._rest_lengths) >= _MAX_KEPT:
                self._rest_lengths.clear()
            rest = self._rest(states)
            self._rest_lengths[states] = None if rest is None else len(rest)
        return self._rest_lengths[states]

    def _encode(self, text: str) -> list[int]:
        self._grammar.spend(_CHARACTER_WORK * len(text))
        return self._alphabet.encode(text)

    def _check(self) -> None:
        text = self._alphabet.decode(self._ids)
        if text == self._text:
            return
        if not self._grammar.accepts(self._grammar.read(self._grammar.start, text)):
            raise TokenizerError(
                f"the tokenizer writes tokens in a row as another text than alone: {excerpt_of(text, 80)}"
            )


def most_probable(log_probs: NDArray[np.float64], count: int) -> tuple[Alternative, ...]:
    """The `count` most probable tokens, of equals the lower id first. log_probs: (vocabulary,)."""
    count = min(count, len(log_probs))
    if count == 0:
        return ()
    least = np.partition(log_probs, -count)[-count]
    among = np.flatnonzero(log_probs >= least)
    best = among[np.argsort(-log_probs[among], kind="stable")][:count]
    return tuple(Alternative(int(token), float(log_probs[token])) for token in best)


class _Rows:
    """Logits of a plan's first step at some positions, asked for in their order."""

    def __init__(self, steps: Steps, plan: SequencePlan, positions: Sequence[int]) -> None:
        self._index = {position: index for index, position in enumerate(positions)}
        slots = plan.slot, plan.guide_slot
        self._rows = GuidedRows(steps, plan.sampling, slots, plan.first_query, positions)
        self._held: NDArray[np.float64] = np.empty((0, 0))
        self._begin = 0  # of what is held

    def __contains__(self, position: int) -> bool:
        return position in self._index

    def at(self, position: int) -> NDArray[np.float64]:
        """(vocabulary,)"""
        index = self._index[position]
        if not self._begin <= index < self._begin + len(self._held):
            step = num_rows_in_piece(self._held.shape[1]) if self._held.size else 1
            self._held = np.empty((0, 0))  # before the next are there
            self._begin, end = index, min(index + step, len(self._rows))
            self._held = self._rows.logits(self._begin, end)
        row: NDArray[np.float64] = self._held[index - self._begin]
        return row
