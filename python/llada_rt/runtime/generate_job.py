"""GenerateJob: one prompt, its samples, and the outputs and events that are made of their sequences."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal

from ..outputs import (
    CompletionOutput,
    DiffusionStats,
    FilledHole,
    FinishReason,
    RequestMetrics,
    RequestOutput,
    StepEvent,
    TextEvent,
    TokenInfo,
    TokenLogprob,
)
from ..params import SamplingParams
from ..planning.scheduler import Member
from ..planning.sequence import SequenceState
from ..text.logprobs import token_logprobs
from ..text.requests import Request
from ..text.template import neighbours
from ..text.tokenizer import Tokenizer
from ..text.transcript import StopRule, Transcript
from .jobs import Job

StreamMode = Literal["append", "denoise"]
Event = TextEvent | StepEvent


class Sample:
    """One response of a generate: its sequence, its text, and in the end its completion."""

    def __init__(
        self, index: int, seed: int, request: Request, sequence: SequenceState, transcript: Transcript
    ) -> None:
        self.index = index
        self.request = request
        self.seed = seed
        self.sequence = sequence
        self.transcript = transcript
        self.completion: CompletionOutput | None = None
        self.num_told = 0  # tokens of which events have told the log-probabilities
        self.cut: FinishReason | None = None  # what ended it before its canvas was full
        self.fit = -math.inf  # of a filled template, beside those with holes of other lengths


class GenerateJob(Job):
    """One prompt; `params.n` samples. `stream`: events are made too.

    `requests`: one, or one for each combination of lengths that the prompt's holes may have. `sequences`: for each
    sample one of each request, in this order. The one that fits its template best becomes the sample's
    completion: `recall` gives the mean log-probability of the tokens at some positions of a canvas.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        sequences: Iterable[SequenceState],
        tokenizer: Tokenizer | None,
        stream: StreamMode | None = None,
        recall: Callable[[Sequence[int], Sequence[int]], float] | None = None,
    ) -> None:
        super().__init__(requests[0].request_id, params.timeout_s)
        self.request = requests[0]  # what they have in common
        self.params = params
        self.events: deque[Event] = deque()
        self.num_admitted = 0
        self.output: RequestOutput | None = None
        self._tokenizer = tokenizer
        self._stream = stream
        self._recall = recall
        self._tells_logprobs = params.logprobs is not None
        decode, incremental = (tokenizer.decode, tokenizer.is_incremental) if tokenizer else (None, True)
        self._samples: dict[Member, Sample] = {
            sequence: Sample(
                number // len(requests),
                params.seed_of(number // len(requests)),
                requests[number % len(requests)],
                sequence,
                Transcript(decode, self._stop_rule(requests[number % len(requests)]), is_incremental=incremental),
            )
            for number, sequence in enumerate(sequences)
        }
        self._has_stops = bool(params.stop or params.stop_token_ids)
        for sample in self._samples.values():
            sample.sequence.max_forwards = params.max_nfe
            sample.sequence.step_by_step = stream is not None or self._has_stops
        self._queue_s: float | None = None
        self._first_text_s: float | None = None

    def _stop_rule(self, request: Request) -> StopRule:
        """The published loop returns all positions of a generation; nothing ends a closed template."""
        open_from = _open_from(request)
        is_cut = open_from is not None and (request.template is not None or self.params.preset != "reference")
        return StopRule(
            begin=open_from or 0,
            end_tokens=request.end_tokens if is_cut else frozenset(),
            token_ids=frozenset(self.params.stop_token_ids),
            strings=self.params.stop,
            include=self.params.include_stop_str_in_output,
            controls=self._tokenizer.control_stops(self.params.stop) if self._tokenizer else (),
            control_ids=self._tokenizer.control_ids if self._tokenizer and self.params.stop else frozenset(),
        )

    @property
    def sources(self) -> Sequence[SequenceState]:
        return [sample.sequence for sample in self._samples.values()]

    @property
    def members(self) -> Sequence[Member]:
        return self.sources

    @property
    def num_waiting(self) -> int:
        return len(self._samples) - self.num_admitted

    @property
    def has_events(self) -> bool:
        return bool(self.events)

    @property
    def has_result(self) -> bool:
        return self.output is not None

    @property
    def finish_reason(self) -> str:
        assert self.output is not None
        return self.output.outputs[0].finish_reason

    def result(self) -> RequestOutput:
        if self.error is not None:
            raise self.error
        assert self.output is not None
        return self.output

    def admitted(self, member: Member) -> None:
        self.num_admitted += 1
        if self._queue_s is None:
            self._queue_s = time.monotonic() - self.arrived

    def stepped(self, member: Member, block: int) -> bool:
        sample = self._samples[member]
        sequence, transcript = sample.sequence, sample.transcript
        if self._first_text_s is None and sequence.canvas.tokens[sequence.canvas.span.start] != self.request.mask_id:
            self._first_text_s = time.monotonic() - self.arrived
        given = len(transcript.text)
        if sequence.is_finished:
            self._complete(sample, None)
        else:
            if self._stream or self._has_stops:
                transcript.update(self._settled(sequence))
            # An end token of the model does not end it here: that is the scheduler's to decide, at the block's end.
            if transcript.stop_reason is not None:
                self._complete(sample, None)
            elif sequence.is_spent:
                self._complete(sample, "max_nfe")
        self._publish(sample, given, block)
        return sample.completion is not None

    def cut(self, member: Member) -> None:
        self._end_sample(self._samples[member], None)

    def end(self, reason: Literal["timeout", "abort"]) -> None:
        for sample in self._samples.values():
            if sample.completion is None:
                self._end_sample(sample, reason)

    def _end_sample(self, sample: Sample, reason: Literal["timeout", "abort"] | None) -> None:
        given = len(sample.transcript.text)
        sample.sequence.new_commits = ()
        self._complete(sample, reason)
        self._publish(sample, given, sample.sequence.canvas.block_index)

    def _settled(self, sequence: SequenceState) -> list[int]:
        """Ids of the response before its first mask."""
        ids = sequence.canvas.tokens[len(self.request.prompt_token_ids) :]
        return _until(ids, frozenset([self.request.mask_id]))

    # ---------------------------------------------------------------- events

    def _publish(self, sample: Sample, given: int, block: int) -> None:
        """The event of what has just happened; `given`: characters that earlier events told."""
        if self._stream is None:
            return
        text = sample.transcript.text
        is_finished = sample.completion is not None
        if self._stream == "append":
            if len(text) > given or is_finished:
                event: Event = TextEvent(
                    request_id=self.request_id,
                    index=sample.index,
                    text_delta=text[given:],
                    text=text,
                    finished=is_finished,
                    output=self.output if is_finished else None,
                    token_logprobs=self._new_logprobs(sample),
                    completion=sample.completion,
                )
                self.events.append(event)
            return
        sequence = sample.sequence
        self.events.append(
            StepEvent(
                request_id=self.request_id,
                index=sample.index,
                step=sequence.num_forwards - 1,
                block=block,
                nfe=sequence.num_forwards,
                committed=[(commit.position, commit.token, commit.confidence) for commit in sequence.new_commits],
                text_delta=text[given:],
                text=text,
                canvas=list(sequence.canvas.shown),
                prompt_length=len(self.request.prompt_token_ids),
                finished=is_finished,
                output=self.output if is_finished else None,
                token_logprobs=self._logprobs(sequence, ((each.position, each.token) for each in sequence.new_commits)),
                completion=sample.completion,
            )
        )

    def _new_logprobs(self, sample: Sample) -> list[TokenLogprob] | None:
        """Log-probabilities of the tokens that the text takes and no event has told.

        When the sample is complete, all tokens that are left.
        """
        if not self._tells_logprobs:
            return None
        ids, begin = sample.transcript.token_ids, sample.num_told
        sample.num_told = len(ids) if sample.completion is not None else sample.transcript.num_told(begin)
        start = len(self.request.prompt_token_ids) + begin
        return self._logprobs(sample.sequence, enumerate(ids[begin : sample.num_told], start))

    def _logprobs(self, sequence: SequenceState, tokens: Iterable[tuple[int, int]]) -> list[TokenLogprob] | None:
        """The log-probability of each (canvas position, id), if the request asks."""
        return token_logprobs(sequence, tokens, self._tokenizer) if self._tells_logprobs else None

    # ---------------------------------------------------------------- the end

    def _complete(self, sample: Sample, reason: Literal["max_nfe", "timeout", "abort"] | None) -> None:
        """Make the completion; `reason`: what ended it before its canvas was full."""
        sequence, transcript = sample.sequence, sample.transcript
        start = len(self.request.prompt_token_ids)
        response = sequence.canvas.shown[start:]
        ids = response if sequence.is_finished else self._settled(sequence)
        transcript.update(ids, is_complete=True)
        finish: FinishReason = reason or "length"
        sample.cut = reason
        open_from = _open_from(sample.request)
        if transcript.is_ended or (open_from is not None and self._ends(ids[open_from:])):
            finish = "stop"
        tokens = self._token_infos(transcript.token_ids, start, sequence)
        sample.completion = CompletionOutput(
            index=sample.index,
            text=transcript.text,
            token_ids=transcript.token_ids,
            finish_reason=finish,
            stop_reason=transcript.stop_reason,
            seed=sample.seed,
            tokens=tokens if self.params.return_tokens else None,
            logprobs=[token.logprob for token in tokens] if self._tells_logprobs else None,
            diffusion=self._stats(sample),
            audit=sequence.audit.report if sequence.audit else None,
            holes=self._holes(sample),
            token_logprobs=self._logprobs(sequence, enumerate(transcript.token_ids, start)),
        )
        if self._recall is not None and sequence.is_finished:
            sample.fit = self._fit(sample, self._recall)
        if all(each.completion is not None for each in self._samples.values()):
            completions = [self._fittest(index) for index in range(self.params.n)]
            metrics = RequestMetrics(self._queue_s, self._first_text_s, time.monotonic() - self.arrived)
            request = self.request
            self.output = RequestOutput(
                self.request_id, request.prompt, list(request.prompt_token_ids), completions, self.params, metrics
            )

    def _ends(self, ids: list[int]) -> bool:
        return any(token in self.request.end_tokens for token in ids)

    def _fit(self, sample: Sample, recall: Callable[[Sequence[int], Sequence[int]], float]) -> float:
        """How well a filled template agrees with itself; by the filling's own confidence if nothing else is there."""
        assert sample.request.template is not None
        beside = neighbours(sample.request.template, len(sample.request.prompt_token_ids))
        if beside:
            return recall(sample.sequence.canvas.tokens, beside)
        log_probs = [placed.log_prob for placed in sample.sequence.placed.values()]
        return math.fsum(log_probs) / len(log_probs)

    def _fittest(self, index: int) -> CompletionOutput:
        """The completion of a sample. Where several templates fit alike, the first of them.

        If another was cut short, nobody knows whether that would have fitted better: the sample was cut short too.
        """
        those = [each for each in self._samples.values() if each.index == index]
        fittest = max(those, key=lambda each: each.fit)
        assert fittest.completion is not None
        cut = next((each.cut for each in those if each.cut is not None), None)
        if len(those) > 1 and cut is not None:
            return replace(fittest.completion, finish_reason=cut)
        return fittest.completion

    def _holes(self, sample: Sample) -> list[FilledHole] | None:
        template = sample.request.template
        if template is None:
            return None
        ids = sample.sequence.canvas.tokens[len(sample.request.prompt_token_ids) :]
        filled = []
        for hole in template.holes:
            inside = [token for token in ids[hole.start : hole.stop] if token != sample.request.mask_id]
            if any(hole == ruled for ruled, _ in template.rules):
                inside = _until(inside, sample.request.end_tokens)  # what its text has left over
            filled.append(FilledHole(hole.start, inside, self._tokenizer.decode(inside) if self._tokenizer else ""))
        return filled

    def _stats(self, sample: Sample) -> DiffusionStats:
        sequence, ids = sample.sequence, sample.transcript.token_ids
        template, mask_id = sample.request.template, sample.request.mask_id
        confidences = [placed.confidence for placed in sequence.placed.values()]
        if template is None:
            num_decoded = len(sequence.canvas.tokens) - sequence.canvas.span.start - len(sample.request.pinned)
            given = {place for place, _ in sample.request.pinned}
            hidden = {mask_id, *self.request.end_tokens}
            emitted = sum(token not in hidden and place not in given for place, token in enumerate(ids))
        else:
            num_decoded, emitted = template.tokens.count(mask_id), len(sequence.placed)
        return DiffusionStats(
            nfe=sequence.num_forwards,
            num_blocks=len({placed.block for placed in sequence.placed.values()}),
            tokens_per_forward=len(sequence.placed) / max(sequence.num_forwards, 1),
            num_refreshes=sequence.num_refreshes,
            num_query_rows=sequence.num_query_rows,
            canvas_tokens=num_decoded,
            emitted_tokens=emitted,
            padding_tokens=num_decoded - emitted,
            mean_confidence=sum(confidences) / len(confidences) if confidences else None,
            min_confidence=min(confidences, default=None),
        )

    def _token_infos(self, ids: list[int], start: int, sequence: SequenceState) -> list[TokenInfo]:
        if not (self.params.return_tokens or self._tells_logprobs):
            return []
        infos = []
        for position, token in enumerate(ids, start):
            placed = sequence.placed.get(position)
            infos.append(
                TokenInfo(
                    id=token,
                    text=self._tokenizer.token_text(token) if self._tokenizer else "",
                    position=position,
                    step=placed.step if placed else None,
                    block=placed.block if placed else None,
                    confidence=placed.confidence if placed else None,
                    logprob=placed.log_prob if placed else None,
                )
            )
        return infos


def _open_from(request: Request) -> int | None:
    """Index in the response from which an end token ends the response. None: no token ends a closed template."""
    return 0 if request.template is None else request.template.open_from


def _until(ids: list[int], ends: frozenset[int]) -> list[int]:
    """The ids before the first of `ends`."""
    return ids[: next((index for index, token in enumerate(ids) if token in ends), len(ids))]
