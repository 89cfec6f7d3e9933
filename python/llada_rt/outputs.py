"""What comes back: RequestOutput with its parts, the events of a stream, ScoreOutput, EngineStats.

Values only; each has `to_dict`, which gives plain JSON values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .json_values import JsonValue
from .params import SamplingParams

# What each means is written at CompletionOutput.
FinishReason = Literal["stop", "length", "max_nfe", "timeout", "abort"]


@dataclass(frozen=True, slots=True)
class TokenInfo(JsonValue):
    """How one position got its token. A fixed position of an infill has no step, block or confidence."""

    id: int
    text: str
    position: int  # index in the canvas: prompt first
    step: int | None  # the request's forward that committed it, from 0
    block: int | None
    confidence: float | None  # by the request's `remasking` score, when it was committed
    logprob: float | None  # natural logarithm of its probability then, without noise


@dataclass(frozen=True, slots=True)
class TopLogprob(JsonValue):
    """One of the most probable tokens at a position, whether or not it was committed.

    `token`, `logprob` and `bytes` are named as OpenAI names them.
    """

    token: str  # its text; what is no whole character is a replacement character
    logprob: float
    bytes: tuple[int, ...] | None  # of its text, or of its part of a character; None: no tokenizer knows it
    id: int


@dataclass(frozen=True, slots=True)
class TokenLogprob(JsonValue):
    """How likely a token was where it stands, and what was likely beside it.

    All of it is told of one forward, the one that committed the token. `logprob` is the natural logarithm of the
    token's probability in the model's distribution there: after guidance, without the noise of `temperature`. The mask
    token has its share of it. The token that `logits_eos_inf` suppresses has none, nor have those that
    `confidence_eos_eot_inf` leaves out: they are not listed, and one that is committed counts for itself alone.
    Where a `regex` or `choice` writes, the distribution is of all tokens, whether or not they may stand there. What
    must follow there is written without asking the model: its logprob is 0, and nothing is listed beside it.
    A token that no step has committed has None, which JSON has as null: a fixed position of an infill, a pinned one,
    what fills a response after its end.
    """

    token: str  # as of a TopLogprob
    logprob: float | None
    bytes: tuple[int, ...] | None
    top_logprobs: tuple[TopLogprob, ...]  # `logprobs` of them: most probable first, of equals the lower id
    id: int
    position: int  # index in the canvas: prompt first
    step: int | None  # the request's forward that committed it, from 0
    block: int | None
    confidence: float | None  # by the request's `remasking` score
    is_special: bool = False  # the text does not show it: an end token, another control token


@dataclass(frozen=True, slots=True)
class DiffusionStats(JsonValue):
    """What a response has cost, and what became of the positions that were to be decoded."""

    nfe: int  # forwards; with guidance a pair counts once
    num_blocks: int
    tokens_per_forward: float  # tokens committed / nfe
    num_refreshes: int  # forwards that recomputed the whole canvas
    num_query_rows: int  # positions recomputed, over all forwards
    canvas_tokens: int  # positions that were to be decoded
    emitted_tokens: int  # of these what the text shows: no end token, nothing that was given
    padding_tokens: int  # the rest
    mean_confidence: float | None
    min_confidence: float | None


@dataclass(frozen=True, slots=True)
class RequestMetrics(JsonValue):
    """Seconds since the call, on one monotonic clock; None: it did not come to that."""

    queue_s: float | None  # until its first sample was admitted
    first_text_s: float | None  # until the first position to be decoded had its token
    total_s: float


@dataclass(frozen=True, slots=True)
class FilledHole(JsonValue):
    """What was written into a hole of an infill."""

    start: int  # index in the completion's token_ids
    token_ids: list[int]
    text: str


@dataclass(slots=True)
class CacheAudit(JsonValue):
    """What the audited steps of a request have shown. KL: of the cached from the exact distribution at a position that
    was a candidate, in nats, without noise.
    """

    num_steps: int = 0  # cached steps that were audited
    num_positions: int = 0  # candidates compared
    num_changed_candidates: int = 0  # of them, those whose most likely token is another one
    mean_kl: float = 0.0
    max_kl: float = 0.0
    num_commits: int = 0  # tokens that the audited steps wrote
    num_changed_commits: int = 0  # of them, those that the exact step would not have written there and then
    num_missed_commits: int = 0  # tokens that only the exact step would have written
    num_forced_refreshes: int = 0  # steps beyond the error budget: run exactly, so without commits to compare


@dataclass(frozen=True, slots=True)
class CompletionOutput(JsonValue):
    """One response.

    `token_ids`: in the reference preset all response positions, as the published loop returns them; otherwise those
    before the first end token (EOS or EoT, left out). `text` never shows special tokens, and is empty without a
    tokenizer. For an infill both hold the whole template, filled.
    A stop of the caller ends both; `token_ids` then are the fewest that hold the text. A response that ended before
    its canvas was full has the ids before the first mask.

    `finish_reason`:
    stop      an end token of the model, or a stop of the caller, which `stop_reason` then names
    length    all positions are filled
    max_nfe   the forwards that `max_nfe` allows are spent
    timeout   `timeout_s` is over
    abort     `abort` was called
    After the last three the response is as it was, with the text that could no longer change.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    stop_reason: str | int | None  # the caller's stop that ended it
    seed: int  # of this sample: params.seed_of(index)
    tokens: list[TokenInfo] | None  # with return_tokens, one for each of token_ids
    logprobs: list[float | None] | None  # with logprobs, one for each of token_ids; None: not committed by a step
    diffusion: DiffusionStats
    audit: CacheAudit | None = None  # with `audit`
    holes: list[FilledHole] | None = None  # of an infill, in order
    token_logprobs: list[TokenLogprob] | None = None  # with logprobs, one for each of token_ids

    def openai_logprobs(self) -> dict[str, Any] | None:
        """`logprobs` of a choice in an OpenAI response: {"content": [...]}, an entry for each token of the text.

        Control tokens, which the text does not show, have none. A token that was given (a fixed position of a template,
        a pinned token) is certain: its logprob is 0. None without the option `logprobs`.
        """
        return None if self.token_logprobs is None else openai_content(self.token_logprobs)


def openai_content(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """`logprobs` of a choice, or of a piece of one: see CompletionOutput.openai_logprobs."""
    shown = ("token", "logprob", "bytes", "top_logprobs")
    content = [
        {name: known[name] for name in shown} | {"logprob": 0.0 if known["logprob"] is None else known["logprob"]}
        for known in (each.to_dict() for each in tokens if not each.is_special)
    ]
    for entry in content:
        entry["top_logprobs"] = [{name: top[name] for name in shown[:3]} for top in entry["top_logprobs"]]
    return {"content": content}


@dataclass(frozen=True, slots=True)
class Usage(JsonValue):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int  # those that the texts show (DiffusionStats.emitted_tokens), of all responses
    total_tokens: int


@dataclass(frozen=True, slots=True)
class RequestOutput(JsonValue):
    """A finished request; `params` are those it ran with, the preset expanded and the seed drawn."""

    request_id: str
    prompt: str | None  # as it was given, if it was text
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]  # params.n of them
    params: SamplingParams
    metrics: RequestMetrics = dataclasses.field(compare=False)

    @property
    def text(self) -> str:
        """Text of the first response."""
        return self.outputs[0].text

    @property
    def usage(self) -> Usage:
        """Tokens read and written, over all responses."""
        written = sum(output.diffusion.emitted_tokens for output in self.outputs)
        return Usage(len(self.prompt_token_ids), written, len(self.prompt_token_ids) + written)


@dataclass(frozen=True, slots=True)
class TextEvent(JsonValue):
    """Text of a streamed sample that can no longer change. Joined `text_delta`s are the text of its output."""

    request_id: str
    index: int  # of the sample
    text_delta: str
    text: str  # all of it so far
    finished: bool  # this sample
    output: RequestOutput | None  # with the last event of all
    # With logprobs: the tokens that the text so far takes, less those of earlier events, and all that are left with the
    # last event of a sample. Joined they are those of its output.
    token_logprobs: list[TokenLogprob] | None = None
    completion: CompletionOutput | None = None  # this sample's, with its last event


@dataclass(frozen=True, slots=True)
class StepEvent(JsonValue):
    """One step of a streamed sample. Joined `text_delta`s are the text of its output."""

    request_id: str
    step: int  # from 0
    block: int
    nfe: int
    unmasked: list[tuple[int, int, float]]  # (canvas position, id, confidence), best first
    text_delta: str  # text that can no longer change, as in TextEvent
    text: str  # all of it so far
    canvas: list[int]  # prompt and response, masks included
    prompt_length: int  # where the response begins in the canvas
    finished: bool  # this sample
    output: RequestOutput | None  # with the last event of all
    index: int = 0  # of the sample
    token_logprobs: list[TokenLogprob] | None = None  # with logprobs, one for each of `unmasked`
    completion: CompletionOutput | None = None  # this sample's, with its last event


@dataclass(frozen=True, slots=True)
class ScoreOutput(JsonValue):
    """Monte Carlo estimate of log p(answer | prompt), a lower bound in expectation; natural logarithm.

    Unpacks as `log_likelihood, standard_error = engine.score(...)`.
    """

    log_likelihood: float
    standard_error: float  # see llada_rt.runtime.score.estimate; nan for a single draw
    num_samples: int

    def __iter__(self) -> Iterator[float]:
        return iter((self.log_likelihood, self.standard_error))


@dataclass(frozen=True, slots=True)
class EngineStats(JsonValue):
    """An engine since it was opened. Counts of requests are of generate and score alike."""

    num_running: int  # sequences, and draws of scores, that hold K/V
    num_waiting: int  # samples and scores in the queue
    kv_bytes: int  # for K/V in all
    kv_used_bytes: int
    num_finished: Mapping[str, int]  # requests by finish reason; "score"
    num_failed: int  # requests that ended with an error
    num_dropped: int  # requests whose caller went away
    num_calls: int  # of the compiled loop
    num_forwards: int  # steps; those that requests share count once
    num_query_rows: int  # positions recomputed
    num_committed: int  # tokens
    busy_s: float  # inside the compiled loop
    call_s: float | None  # of the call under way; None: there is none
    # Since a step ended or, if that is later, since the oldest request came; None: there is no request.
    since_step_s: float | None = None
