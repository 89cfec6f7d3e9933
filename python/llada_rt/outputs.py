"""What comes back: RequestOutput with its parts, StepEvent, ScoreOutput; and how they are made from a canvas."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any, Literal

from .audit import CacheAudit
from .params import SamplingParams
from .plan import Commit
from .requests import Request
from .scheduler import Sequence
from .tokenizer import Tokenizer

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """How one position got its token. A fixed position of an infill has no step, block or confidence."""

    id: int
    text: str
    position: int  # index in the canvas: prompt first
    step: int | None  # the request's forward that committed it, from 0
    block: int | None
    confidence: float | None  # by the request's `remasking` score, when it was committed


@dataclass(frozen=True, slots=True)
class DiffusionStats:
    """What a request has cost."""

    nfe: int  # forwards; with guidance a pair counts once
    num_blocks: int
    tokens_per_forward: float  # tokens committed / nfe
    num_refreshes: int  # forwards that recomputed the whole canvas
    num_query_rows: int  # positions recomputed, over all forwards
    canvas_tokens: int  # positions that were to be decoded
    emitted_tokens: int  # of the text: before the first end token
    padding_tokens: int  # the rest: the end token and what follows it
    mean_confidence: float | None
    min_confidence: float | None


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One response.

    `token_ids`: in the reference preset all response positions, as the published loop returns them; otherwise those
    before the first end token (EOS or EoT, left out). `text` never shows special tokens, and is empty without a
    tokenizer. Of an infill both hold the whole template, filled.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason  # stop: an end token was written
    tokens: list[TokenInfo] | None  # with return_tokens, one for each of token_ids
    diffusion: DiffusionStats
    audit: CacheAudit | None = None  # with `audit`


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """A finished request; `params` are those it ran with, the preset expanded and the seed drawn."""

    request_id: str
    prompt: str | None  # as it was given, if it was text
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    params: SamplingParams

    @property
    def text(self) -> str:
        """Text of the first (and so far only) response."""
        return self.outputs[0].text

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "request_id": self.request_id,
            "prompt": self.prompt,
            "prompt_token_ids": self.prompt_token_ids,
            "outputs": [dataclasses.asdict(output) for output in self.outputs],
            "params": self.params.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class StepEvent:
    """One step of a streamed request. Joined `text_delta`s are the text of the finished request."""

    request_id: str
    step: int  # from 0
    block: int
    nfe: int
    unmasked: list[tuple[int, int, float]]  # (canvas position, id, confidence), best first
    text_delta: str  # text that can no longer change: without holes before it
    text: str  # all of it so far
    canvas: list[int]  # prompt and response, masks included
    prompt_length: int  # where the response begins in the canvas
    finished: bool
    output: RequestOutput | None  # with the last event

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {"output": self.output.to_dict() if self.output else None}


@dataclass(frozen=True, slots=True)
class ScoreOutput:
    """Monte Carlo estimate of log p(answer | prompt), a lower bound in expectation; natural logarithm.

    Unpacks as `log_likelihood, standard_error = engine.score(...)`.
    """

    log_likelihood: float
    standard_error: float  # of the mean over samples; draws are spread evenly over mask counts, so rather too large
    num_samples: int

    def __iter__(self) -> Iterator[float]:
        return iter((self.log_likelihood, self.standard_error))


def request_output(
    request: Request, params: SamplingParams, sequence: Sequence, tokenizer: Tokenizer | None
) -> RequestOutput:
    """The result of a complete canvas."""
    start = len(request.prompt_token_ids)
    ids, ended = _response(request, params, sequence)
    confidences = [placed.confidence for placed in sequence.placed.values()]
    emitted = [token for token in _until(ids, request.end_tokens) if token != request.mask_id]
    num_decoded = len(sequence.canvas.span) if request.template is None else request.template.count(request.mask_id)
    emitted_tokens = len(emitted) if request.template is None else num_decoded
    stats = DiffusionStats(
        nfe=sequence.num_forwards,
        num_blocks=len({placed.block for placed in sequence.placed.values()}),
        tokens_per_forward=len(sequence.placed) / max(sequence.num_forwards, 1),
        num_refreshes=sequence.num_refreshes,
        num_query_rows=sequence.num_query_rows,
        canvas_tokens=num_decoded,
        emitted_tokens=emitted_tokens,
        padding_tokens=num_decoded - emitted_tokens,
        mean_confidence=sum(confidences) / len(confidences) if confidences else None,
        min_confidence=min(confidences, default=None),
    )
    completion = CompletionOutput(
        index=0,
        text=tokenizer.decode(ids) if tokenizer else "",
        token_ids=ids,
        finish_reason="stop" if ended else "length",
        tokens=_tokens(ids, start, sequence, tokenizer) if params.return_tokens else None,
        diffusion=stats,
        audit=sequence.audit.report if sequence.audit else None,
    )
    return RequestOutput(request.request_id, request.prompt, list(request.prompt_token_ids), [completion], params)


def _response(request: Request, params: SamplingParams, sequence: Sequence) -> tuple[list[int], bool]:
    """Returned ids, and whether an end token was written."""
    ids = sequence.canvas.tokens[len(request.prompt_token_ids) :]
    if request.template is not None:
        return ids, False
    cut = _until(ids, request.end_tokens)
    return (ids if params.preset == "reference" else cut), len(cut) < len(ids)


def _until(ids: list[int], ends: frozenset[int]) -> list[int]:
    """The ids before the first end token."""
    return ids[: next((index for index, token in enumerate(ids) if token in ends), len(ids))]


def _tokens(ids: list[int], start: int, sequence: Sequence, tokenizer: Tokenizer | None) -> list[TokenInfo]:
    infos = []
    for position, token in enumerate(ids, start):
        placed = sequence.placed.get(position)
        infos.append(
            TokenInfo(
                id=token,
                text=tokenizer.token_text(token) if tokenizer else "",
                position=position,
                step=placed.step if placed else None,
                block=placed.block if placed else None,
                confidence=placed.confidence if placed else None,
            )
        )
    return infos


class EventStream:
    """Makes the events of one streamed request; keeps what text has been given out."""

    def __init__(self, request: Request, params: SamplingParams, tokenizer: Tokenizer | None) -> None:
        self._request = request
        self._params = params
        self._tokenizer = tokenizer
        self._text = ""

    def event(
        self, sequence: Sequence, *, block: int, commits: SequenceOf[Commit], output: RequestOutput | None
    ) -> StepEvent:
        """The event of the step that has just run; `output` if it was the last one."""
        text = self._stable_text(sequence) if output is None else output.text
        # A decoder may rewrite what it wrote (merging spaces); text already given out is only ever extended.
        delta = text[len(self._text) :] if text.startswith(self._text) else ""
        self._text += delta
        return StepEvent(
            request_id=self._request.request_id,
            step=sequence.num_forwards - 1,
            block=block,
            nfe=sequence.num_forwards,
            unmasked=[(commit.position, commit.token, commit.confidence) for commit in commits],
            text_delta=delta,
            text=self._text,
            canvas=list(sequence.canvas.tokens),
            prompt_length=len(self._request.prompt_token_ids),
            finished=output is not None,
            output=output,
        )

    def _stable_text(self, sequence: Sequence) -> str:
        """Text of the response up to its first mask, less a character that is not complete."""
        if self._tokenizer is None:
            return ""
        ids = sequence.canvas.tokens[len(self._request.prompt_token_ids) :]
        ids = _until(ids, frozenset([self._request.mask_id]))
        if self._request.template is None and self._params.preset != "reference":
            ids = _until(ids, self._request.end_tokens)
        return self._tokenizer.decode(ids).rstrip("\ufffd")
