"""What comes back: RequestOutput with its parts, the events of a stream, ScoreOutput, EngineStats.

All are plain values, and each has `to_dict`, which gives plain JSON values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .json_values import JsonValue
from .options.renamed import warn_renamed
from .params import SamplingParams

# What each means is written at CompletionOutput.
FinishReason = Literal["stop", "length", "max_nfe", "timeout", "abort"]


@dataclass(frozen=True, slots=True)
class TokenInfo(JsonValue):
    """How one position got its token. A fixed position of an infill has no step, block or confidence.

    Attributes:
        id: The token.
        text: The token's text; empty without a tokenizer.
        position: Index in the canvas, the prompt first.
        step: The request's forward that committed the token, from 0.
        block: The block that the step decoded, from 0.
        confidence: The token's score by the request's `remasking`, when it was committed.
        logprob: Natural logarithm of the token's probability then, without noise.
    """

    id: int
    text: str
    position: int
    step: int | None
    block: int | None
    confidence: float | None
    logprob: float | None


@dataclass(frozen=True, slots=True)
class TopLogprob(JsonValue):
    """One of the most probable tokens at a position, whether or not it was committed.

    `token`, `logprob` and `bytes` are named as OpenAI names them.

    Attributes:
        token: The token's text. What is no whole character is a replacement character.
        logprob: Natural logarithm of the token's probability.
        bytes: UTF-8 bytes of the token's text, or of its part of a character. None: no tokenizer knows the token.
        id: The token.
    """

    token: str
    logprob: float
    bytes: tuple[int, ...] | None
    id: int


@dataclass(frozen=True, slots=True)
class TokenLogprob(JsonValue):
    """How likely a token was where it stands, and what was likely beside it.

    All values are those of one forward, which committed the token. `logprob` is the natural logarithm of the token's
    probability in the model's distribution at the position: after guidance, without the noise of `temperature`. The
    mask token has its share of the distribution. The token that `logits_eos_inf` suppresses has none, nor have those
    that `confidence_eos_eot_inf` leaves out: these tokens are not listed, and one that is committed counts for itself
    alone. Where a `regex` or `choice` writes, the distribution is over all tokens, whether or not the rule allows them.
    A token that must follow is written without asking the model: the token's logprob is 0, and nothing is listed.
    A token that no step has committed has None, which JSON has as null: a fixed position of an infill, a pinned one,
    what fills a response after its end.

    Attributes:
        token: The token's text. What is no whole character is a replacement character.
        logprob: Natural logarithm of the token's probability.
        bytes: UTF-8 bytes of the token's text, or of its part of a character. None: no tokenizer knows the token.
        top_logprobs: The `logprobs` most probable tokens at this position, the most probable first, and among equals
            the lower id.
        id: The token.
        position: Index in the canvas, the prompt first.
        step: The request's forward that committed the token, from 0.
        block: The block that the step decoded, from 0.
        confidence: The token's score by the request's `remasking`, when it was committed.
        is_special: The text does not show the token: an end token or another control token.
    """

    token: str
    logprob: float | None
    bytes: tuple[int, ...] | None
    top_logprobs: tuple[TopLogprob, ...]
    id: int
    position: int
    step: int | None
    block: int | None
    confidence: float | None
    is_special: bool = False


@dataclass(frozen=True, slots=True)
class DiffusionStats(JsonValue):
    """What a response has cost, and what became of the positions that were to be decoded.

    Attributes:
        nfe: Forwards. With guidance a pair counts once.
        num_blocks: Blocks in which a token was committed.
        tokens_per_forward: Tokens committed, divided by `nfe`.
        num_refreshes: Forwards that recomputed the whole canvas.
        num_query_rows: Positions recomputed, over all forwards.
        canvas_tokens: Positions that were to be decoded.
        emitted_tokens: Those of `canvas_tokens` that the text shows: no end token, nothing that was given.
        padding_tokens: The rest of `canvas_tokens`.
        mean_confidence: Mean score of the committed tokens. None: no token was committed.
        min_confidence: Least score of the committed tokens. None: no token was committed.
    """

    nfe: int
    num_blocks: int
    tokens_per_forward: float
    num_refreshes: int
    num_query_rows: int
    canvas_tokens: int
    emitted_tokens: int
    padding_tokens: int
    mean_confidence: float | None
    min_confidence: float | None


@dataclass(frozen=True, slots=True)
class RequestMetrics(JsonValue):
    """Seconds since the call, on one monotonic clock. None: the request did not come to that.

    Attributes:
        queue_s: Until the request's first sample was admitted.
        first_text_s: Until the first position to be decoded had its token.
        total_s: Until the request ended.
    """

    queue_s: float | None
    first_text_s: float | None
    total_s: float


@dataclass(frozen=True, slots=True)
class FilledHole(JsonValue):
    """What was written into a hole of an infill.

    Attributes:
        start: Index of the hole's first position in the completion's `token_ids`.
        token_ids: The tokens in the hole, without masks. In a hole with a rule, the tokens before the first end token.
        text: The text of the tokens; empty without a tokenizer.
    """

    start: int
    token_ids: list[int]
    text: str


@dataclass(slots=True)
class CacheAudit(JsonValue):
    """What the audited steps of a request have shown.

    KL is the divergence of the cached from the exact distribution at a position that was a candidate, in nats, without
    noise.

    Attributes:
        num_steps: Cached steps that were audited.
        num_positions: Candidates compared.
        num_changed_candidates: Candidates whose most likely token is another one under the exact step.
        mean_kl: Mean KL over the candidates compared.
        max_kl: Largest KL of a candidate.
        num_commits: Tokens that the audited steps wrote.
        num_changed_commits: Those of `num_commits` that the exact step would not have written there and then.
        num_missed_commits: Tokens that only the exact step would have written.
        num_forced_refreshes: Steps beyond the error budget, which were run exactly and have no commits to compare.
    """

    num_steps: int = 0
    num_positions: int = 0
    num_changed_candidates: int = 0
    mean_kl: float = 0.0
    max_kl: float = 0.0
    num_commits: int = 0
    num_changed_commits: int = 0
    num_missed_commits: int = 0
    num_forced_refreshes: int = 0


@dataclass(frozen=True, slots=True)
class CompletionOutput(JsonValue):
    """One response.

    For an infill `token_ids` and `text` hold the whole template, filled. A stop of the caller ends both; `token_ids`
    then are the fewest that hold the text. A response that ended before its canvas was full has the ids before the
    first mask.

    `finish_reason`:
    stop      an end token of the model, or a stop of the caller, which `stop_reason` then names
    length    all positions are filled
    max_nfe   the forwards that `max_nfe` allows are spent
    timeout   `timeout_s` is over
    abort     `abort` was called
    After the last three the response is as it was, with the text that could no longer change.

    Attributes:
        index: Which of the request's `n` samples, from 0.
        text: The text, which never shows special tokens; empty without a tokenizer.
        token_ids: In the reference preset all response positions, as the published loop returns them. Otherwise those
            before the first end token (EOS or EoT, left out).
        finish_reason: Why the response ended, see above.
        stop_reason: The caller's stop that ended the response, a text or a token id.
        seed: Seed of this sample's noise, `params.seed_of(index)`.
        tokens: With `return_tokens`, one for each of `token_ids`.
        logprobs: With `logprobs`, one for each of `token_ids`. None in the list: no step committed the token.
        diffusion: What the response has cost.
        audit: With `audit`, what the cache has changed.
        holes: What went into each hole of an infill, in order.
        token_logprobs: With `logprobs`, one for each of `token_ids`.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    stop_reason: str | int | None
    seed: int
    tokens: list[TokenInfo] | None
    logprobs: list[float | None] | None
    diffusion: DiffusionStats
    audit: CacheAudit | None = None
    holes: list[FilledHole] | None = None
    token_logprobs: list[TokenLogprob] | None = None

    def openai_logprobs(self) -> dict[str, Any] | None:
        """`logprobs` of a choice in an OpenAI response.

        A token that was given (a fixed position of a template, a pinned token) is certain: its logprob is 0.

        Returns:
            {"content": [...]}, an entry for each token of the text. Control tokens, which the text does not show, have
            none. None without the option `logprobs`.
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
    """Tokens of a request.

    Attributes:
        prompt_tokens: Tokens of the prompt, counted once.
        completion_tokens: Tokens that the texts show (`DiffusionStats.emitted_tokens`), over all responses.
        total_tokens: The sum of the two.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class RequestOutput(JsonValue):
    """A finished request.

    Attributes:
        request_id: The name that the caller gave, or one of the engine's own.
        prompt: The prompt as it was given, if it was text.
        prompt_token_ids: The ids before the response.
        outputs: `params.n` responses.
        params: The options that the request ran with, the preset expanded and the seed drawn.
        metrics: Times, which play no part when two outputs are compared.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
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
    """Text of a streamed sample that can no longer change. Joined `text_delta`s are the text of its output.

    Attributes:
        request_id: The request's name.
        index: Which of the request's `n` samples, from 0.
        text_delta: The text that is new.
        text: The sample's text so far.
        finished: The sample is finished.
        output: The whole output, with the last event of the request.
        token_logprobs: With `logprobs`: the tokens that the text so far takes, less those of earlier events. The last
            event of a sample has all that are left. Joined they are those of the sample's output.
        completion: This sample's, with its last event.
    """

    request_id: str
    index: int
    text_delta: str
    text: str
    finished: bool
    output: RequestOutput | None
    token_logprobs: list[TokenLogprob] | None = None
    completion: CompletionOutput | None = None


@dataclass(frozen=True, slots=True)
class StepEvent(JsonValue):
    """One step of a streamed sample. Joined `text_delta`s are the text of its output.

    Attributes:
        request_id: The request's name.
        step: The sample's forward, from 0.
        block: The block that the step decoded, from 0.
        nfe: Forwards of the sample so far.
        committed: (canvas position, id, confidence) of each token that the step committed, best first.
        text_delta: The text that is new and can no longer change, as in TextEvent.
        text: The sample's text so far.
        canvas: (prompt + response,) ids, masks included.
        prompt_length: Where the response begins in the canvas.
        finished: The sample is finished.
        output: The whole output, with the last event of the request.
        index: Which of the request's `n` samples, from 0.
        token_logprobs: With `logprobs`, one for each of `committed`.
        completion: This sample's, with its last event.
    """

    request_id: str
    step: int
    block: int
    nfe: int
    committed: list[tuple[int, int, float]]
    text_delta: str
    text: str
    canvas: list[int]
    prompt_length: int
    finished: bool
    output: RequestOutput | None
    index: int = 0
    token_logprobs: list[TokenLogprob] | None = None
    completion: CompletionOutput | None = None

    @property
    def unmasked(self) -> list[tuple[int, int, float]]:
        """The old name of `committed`, for one version."""
        warn_renamed("unmasked", "committed")
        return self.committed

    def to_dict(self) -> dict[str, Any]:
        """The event as JSON has it.

        Returns:
            Plain JSON values by the names of the attributes; `committed` once more as `unmasked`, for one version.
        """
        told = JsonValue.to_dict(self)
        return told | {"unmasked": told["committed"]}


@dataclass(frozen=True, slots=True)
class ScoreOutput(JsonValue):
    """Monte Carlo estimate of log p(answer | prompt), a lower bound in expectation; natural logarithm.

    Unpacks as `log_likelihood, standard_error = engine.score(...)`.

    Attributes:
        log_likelihood: The estimate, in nats.
        standard_error: The estimate's standard error, by groups of draws that depend on each other
            (llada_rt.runtime.score.Estimate.result says how). nan for a single draw.
        num_samples: Number of draws.
    """

    log_likelihood: float
    standard_error: float
    num_samples: int

    def __iter__(self) -> Iterator[float]:
        return iter((self.log_likelihood, self.standard_error))


@dataclass(frozen=True, slots=True)
class EngineStats(JsonValue):
    """An engine since it was opened. Counts of requests are of generate and score alike.

    Attributes:
        num_running: Sequences, and draws of scores, that hold K/V memory now.
        num_waiting: Samples and scores in the queue now.
        kv_bytes: Bytes for K/V in all.
        kv_used_bytes: Bytes of K/V in use now.
        num_finished: Requests by finish reason; scores under "score".
        num_failed: Requests that ended with an error.
        num_dropped: Requests whose caller went away.
        num_calls: Calls of the compiled loop.
        num_forwards: Steps. A step that requests share counts once.
        num_query_rows: Positions recomputed.
        num_committed: Tokens committed.
        busy_s: Seconds inside the compiled loop.
        call_s: Seconds that the call under way has lasted. None: there is none.
        since_step_s: Seconds since a step ended or, if that is later, since the oldest request came. None: there is no
            request.
    """

    num_running: int
    num_waiting: int
    kv_bytes: int
    kv_used_bytes: int
    num_finished: Mapping[str, int]
    num_failed: int
    num_dropped: int
    num_calls: int
    num_forwards: int
    num_query_rows: int
    num_committed: int
    busy_s: float
    call_s: float | None
    since_step_s: float | None = None
