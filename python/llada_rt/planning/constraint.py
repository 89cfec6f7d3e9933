"""Constraint: a stretch of the canvas whose text a grammar must accept. Its tokens are written from left to right.

A step computes candidates for the first masks of the stretch. The one at the very first comes out of the set of tokens
after which the text can still be completed in the positions that are left; with a threshold the candidates after it
are taken too, as long as the model is that sure of them and the grammar reads them. What must come next anyway is
written without asking the model. So the text is always one that the grammar accepts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidRequestError, TokenizerError
from ..excerpt import excerpt_of
from .plan import AllowedTokens, Commit, SelectRule, SequencePlan, SequenceResult, Span
from .token_grammar import TokenGrammar

FILL_STEP = -1  # `step` of a commit that only fills what the text has left over
MAX_TOKENS_PER_STEP = 32  # that the model is asked for at once
_NOTHING = SequenceResult(num_query_rows=0, num_refreshes=0, num_steps=0, num_masked=0, block_done=False, commits=())


class Constraint:
    """One stretch of one canvas. `ends`: tokens by which the model ends it early; `fill`: what follows then.

    In turns: `advance` until the constraint `is_ready`, `ask` for a step, `take` what came of the step.
    Raises InvalidRequestError if even the shortest text of the grammar does not fit, RequestTooLargeError, when it
    advances too, if the grammar's allowance does not reach.
    """

    def __init__(
        self,
        grammar: TokenGrammar,
        span: Span,
        *,
        mask_id: int,
        ends: frozenset[int],
        fill: int,
        threshold: float | None = None,
        param: str = "segments",
    ) -> None:
        """`param`: the option that a text too long is the fault of."""
        self.span = span
        self._tokens, self._grammar = grammar, grammar.grammar
        self._mask_id, self._ends, self._fill, self._threshold = mask_id, ends, fill, threshold
        self._states = self._grammar.start
        self._places: deque[int] | None = None  # still open; None: not begun
        self._allowed: NDArray[np.uint32] | None = None  # tokens for the first of them
        self._taken: SequenceResult | None = None  # of the last step
        self._ids: list[int] = []  # written
        self._text = ""  # the same as text, token by token
        self._is_over = False  # nothing more is written; what is left over is filled
        self._grammar.allow()
        rest = grammar.rest(self._states)
        if rest is None:
            raise InvalidRequestError("the tokenizer can write no text that the constraint accepts", param=param)
        if len(rest) > len(span):
            shortest = excerpt_of(grammar.alphabet.decode(rest), 80)
            raise InvalidRequestError(
                f"the shortest text that the constraint accepts, {shortest}, takes {len(rest)} tokens: expected so "
                f"many positions at least, got {len(span)}",
                param=param,
                hint="a larger gen_length makes room in a response, and a longer hole in a template",
            )
        grammar.allowed(self._states, len(span), ())  # the work of the first time, while nobody waits for it

    @property
    def is_ready(self) -> bool:
        """What the next step may write is known."""
        return self._allowed is not None

    def ask(self, plan: SequencePlan) -> SequencePlan:
        """The plan of a step of the whole block, for the first masks of the stretch."""
        assert self._places
        assert self._allowed is not None
        asked = list(islice(self._places, MAX_TOKENS_PER_STEP if self._threshold is not None else 1))
        block = Span(asked[0], asked[-1] + 1)
        allowed = (AllowedTokens(asked[0], self._allowed),)
        select = SelectRule("propose")
        return replace(plan, block=block, commit_start=block.start, select=select, editable=(), allowed=allowed)

    def take(self, result: SequenceResult) -> None:
        """What came of the step that was asked for."""
        self._taken, self._allowed = result, None

    def advance(self, tokens: Sequence[int]) -> SequenceResult:
        """Write what the last step and the grammar give, and find what the next step may write.

        tokens: the whole canvas. Returns the last step's result with what is to be written as its commits; a result
        of no step if there was none. The canvas is the caller's to write.
        """
        self._grammar.allow()
        commits: list[Commit] = []
        if self._places is None:
            self._places = deque(at for at in range(self.span.start, self.span.stop) if tokens[at] == self._mask_id)
            self._force(commits)
        result, self._taken = self._taken or _NOTHING, None
        self._choose({each.position: each for each in result.proposals}, commits)
        if self._places and not self._is_over:
            self._allowed = self._tokens.allowed(self._states, len(self._places), self._possible_ends())
            if self._allowed is None:  # only a text in pieces of characters is left
                self._write(self._tokens.rest(self._states) or [], commits)
                self._text += self._grammar.shortest(self._states) or ""
                self._is_over = True
        if self._is_over or not self._places:
            self._check()
            commits += [Commit(place, self._fill, 1.0, FILL_STEP, 0.0) for place in self._places]
            self._places.clear()
        return replace(
            result,
            num_masked=len(self._places),
            block_done=not self._places,
            commits=tuple(commits),
            proposals=(),
        )

    def _choose(self, proposals: dict[int, Commit], commits: list[Commit]) -> None:
        """Take the candidate at the first place and, with a threshold, those after it that the model is sure of."""
        assert self._places is not None
        is_first = True
        while self._places and not self._is_over and self._places[0] in proposals:
            proposal = proposals[self._places[0]]
            is_sure = self._threshold is not None and proposal.confidence >= self._threshold
            if not (is_first or is_sure):
                return
            if proposal.token in self._possible_ends():
                self._is_over = True
                return
            states = self._tokens.reads(self._states, proposal.token, len(self._places))
            if not states:
                assert not is_first, "the step gave a token that it was not allowed"
                return
            is_first = False
            self._places.popleft()
            commits.append(replace(proposal, step=0))
            self._ids.append(proposal.token)
            self._text += self._tokens.alphabet.texts[proposal.token]
            self._states = states
            self._force(commits)

    def _force(self, commits: list[Commit]) -> None:
        """Write what the grammar leaves no choice about; see whether it is over."""
        assert self._places is not None
        text = self._grammar.forced(self._states)
        ids = self._tokens.encode(text)
        states = self._grammar.read(self._states, text)
        rest = self._tokens.rest_length(states)
        if rest is not None and len(ids) + rest <= len(self._places):
            self._write(ids, commits)
            self._text += text
            self._states = states
        self._is_over = not self._grammar.can_go_on(self._states)

    def _write(self, ids: Sequence[int], commits: list[Commit]) -> None:
        assert self._places is not None
        commits += [Commit(self._places.popleft(), token, 1.0, 0, 0.0) for token in ids]
        self._ids += ids

    def _possible_ends(self) -> frozenset[int]:
        return self._ends if self._grammar.accepts(self._states) else frozenset()

    def _check(self) -> None:
        text = self._tokens.alphabet.decode(self._ids)
        if text == self._text:
            return
        if not self._grammar.accepts(self._grammar.read(self._grammar.start, text)):
            raise TokenizerError(
                f"the tokenizer writes tokens in a row as another text than alone: {excerpt_of(text, 80)}"
            )
