"""What a request with `logprobs` tells of its tokens: bytes, log-probability, the most probable alternatives."""

from __future__ import annotations

from collections.abc import Iterable

from ..outputs import TokenLogprob, TopLogprob
from ..planning.plan import Alternative
from ..planning.sequence import SequenceState
from .tokenizer import Tokenizer


def token_logprobs(
    sequence: SequenceState, tokens: Iterable[tuple[int, int]], tokenizer: Tokenizer | None
) -> list[TokenLogprob]:
    """The log-probabilities of each (canvas position, id), in order. A position that no step filled has no numbers."""
    special = tokenizer.control_ids if tokenizer else frozenset[int]()
    told = []
    for position, token in tokens:
        text, spelt = _spelt(token, tokenizer)
        placed = sequence.placed.get(position)
        told.append(
            TokenLogprob(
                token=text,
                logprob=placed.log_prob if placed else None,
                bytes=spelt,
                top_logprobs=tuple(_top_logprob(each, tokenizer) for each in placed.alternatives) if placed else (),
                id=token,
                position=position,
                step=placed.step if placed else None,
                block=placed.block if placed else None,
                confidence=placed.confidence if placed else None,
                is_special=token in special,
            )
        )
    return told


def _top_logprob(alternative: Alternative, tokenizer: Tokenizer | None) -> TopLogprob:
    text, spelt = _spelt(alternative.token, tokenizer)
    return TopLogprob(token=text, logprob=alternative.log_prob, bytes=spelt, id=alternative.token)


def _spelt(token: int, tokenizer: Tokenizer | None) -> tuple[str, tuple[int, ...] | None]:
    """Text and bytes of a token."""
    spelt = tokenizer.token_bytes(token) if tokenizer else None
    return ("", None) if spelt is None else (spelt.decode("utf-8", "replace"), tuple(spelt))
