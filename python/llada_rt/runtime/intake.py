"""Intake makes jobs of what callers give. The jobs are read, checked and named, and not queued yet."""

from __future__ import annotations

import functools
import itertools
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from ..errors import InvalidRequestError, LladaRtError
from ..excerpt import excerpt_of
from ..folder.model_files import SpecialIds
from ..params import SamplingParams
from ..planning.visibility import Visibility
from ..text.requests import RequestReader, split_prompts, without_what_prompt_excludes
from ..text.sequences import make_sequence
from ..text.template import variants
from ..text.tokenizer import Tokenizer
from .dispatcher import Dispatcher
from .generate_job import GenerateJob, StreamMode
from .score import ScoredDraw, draw_noise, guide_of, replay_noise
from .score_job import ScoreJob

_OWN_NAMES = "unnamed:"  # requests without a name get one that no caller can have taken


class Intake:
    """One engine's. `recall`: the runner's, which tells how well a filled template fits; `visibility`: of its model.

    Everything raises InvalidRequestError and its kinds, EngineClosedError, RequestTooLargeError.
    """

    def __init__(
        self,
        reader: RequestReader,
        tokenizer: Tokenizer | None,
        special: SpecialIds,
        default_params: SamplingParams,
        dispatcher: Dispatcher,
        recall: Callable[..., Any],
        visibility: Visibility,
    ) -> None:
        self._reader, self._tokenizer, self._special = reader, tokenizer, special
        self._default_params = default_params
        self._dispatcher, self._recall = dispatcher, recall
        self._visibility = visibility
        self._counter = itertools.count()

    def params_of(self, params: object, count: int) -> list[SamplingParams]:
        """One for each of `count` prompts, over the model's defaults."""
        if params is None:
            return [self._default_params] * count
        if isinstance(params, SamplingParams):
            return [params.over(self._default_params)] * count
        if isinstance(params, (list, tuple)) and all(isinstance(one, SamplingParams) for one in params):
            if len(params) != count:
                raise InvalidRequestError(
                    f"params: expected one, or one for each of {count} prompts, got {len(params)}", param="params"
                )
            return [one.over(self._default_params) for one in params]
        raise InvalidRequestError(f"params: expected SamplingParams, got {type(params).__name__}", param="params")

    def generate_jobs(
        self, prompts: object, params: object, request_ids: Sequence[str] | None = None
    ) -> list[GenerateJob]:
        """Checked requests, not queued yet."""
        many = split_prompts(prompts)
        each = self.params_of(params, len(many))
        names: Sequence[str | None] = [None] * len(many) if request_ids is None else request_ids
        if request_ids is not None and len({*request_ids}) != len(many):
            raise InvalidRequestError(
                f"request_ids: expected {len(many)} different names, got {len({*request_ids})}", param="request_ids"
            )
        jobs = []
        for index, (prompt, chosen, name) in enumerate(zip(many, each, names, strict=True)):
            try:
                jobs.append(self._generate_job(prompt, chosen, name))
            except LladaRtError as error:
                if len(many) == 1:
                    raise
                raise error.within(f"prompts[{index}]") from error
        return jobs

    def stream_job(
        self, prompt: object, params: SamplingParams | None, mode: StreamMode, request_id: str | None
    ) -> GenerateJob:
        (chosen,) = self.check_stream(params, mode, request_id)
        return self._generate_job(prompt, chosen, request_id, mode)

    def check_stream(
        self, params: SamplingParams | None, mode: StreamMode, request_id: str | None
    ) -> list[SamplingParams]:
        """What can be seen of a stream without reading its prompt."""
        self._dispatcher.check_open()
        if mode not in get_args(StreamMode):
            raise InvalidRequestError(f"mode: expected append or denoise, got {excerpt_of(mode)}", param="mode")
        self._check_name(request_id)
        return self.params_of(params, 1)

    def _generate_job(
        self, prompt: object, params: SamplingParams, request_id: str | None, stream: StreamMode | None = None
    ) -> GenerateJob:
        self._dispatcher.check_open()
        params = without_what_prompt_excludes(prompt, params)
        if params.seed is None:
            params = params.replace(seed=secrets.randbits(63))
        name = self._name(request_id)
        many = variants(prompt)
        self._dispatcher.check_count(params.n * len(many))
        requests = [self._reader.read(variant, params, name) for variant in many]
        if len(requests) > 1 and stream is not None:
            raise InvalidRequestError(
                "a hole of bounded length cannot be streamed: expected a length", param="segments"
            )
        sequences = [
            make_sequence(request, params, self._special, seed=params.seed_of(index), visibility=self._visibility)
            for index in range(params.n)
            for request in requests
        ]
        recall = functools.partial(self._recall, mask_id=self._special.mask) if len(requests) > 1 else None
        job = GenerateJob(requests, params, sequences, self._tokenizer, stream, recall)
        self._dispatcher.check_fits(job)
        return job

    def score_job(
        self,
        prompt: str | Sequence[int],
        answer: str | Sequence[int],
        *,
        mc_num: int,
        seed: int,
        noise: Sequence[Mapping[str, object]] | None,
        cfg_scale: float,
        request_id: str | None,
    ) -> ScoreJob:
        self._dispatcher.check_open()
        reader, mask_id = self._reader, self._special.mask
        prompt_ids, answer_ids = reader.prompt_ids_of(prompt), reader.ids_of(answer, "answer")
        if not answer_ids:
            raise InvalidRequestError("answer: expected at least one token, got none", param="answer")
        for name, ids in (("prompt", prompt_ids), ("answer", answer_ids)):
            if mask_id in ids:
                raise InvalidRequestError(f"{name}: holds the mask token {mask_id}", param=name)
        reader.check_length(len(prompt_ids), len(answer_ids), "the answer")
        cfg_scale = SamplingParams(cfg_scale=cfg_scale).cfg_scale
        if noise is None:
            count = mc_num
            draws = draw_noise(prompt_ids, answer_ids, mc_num=mc_num, seed=seed, mask_id=mask_id)
        else:
            replayed = replay_noise(prompt_ids, answer_ids, noise, mask_id=mask_id)
            count, draws = len(replayed), iter(replayed)
        start = len(prompt_ids)
        members = (
            ScoredDraw(draw, guide_of(draw, start, mask_id) if cfg_scale else None, cfg_scale, self._visibility)
            for draw in draws
        )
        job = ScoreJob(self._name(request_id), members, count)
        self._dispatcher.check_fits(job)
        return job

    def _name(self, request_id: str | None) -> str:
        if request_id is None:
            return f"{_OWN_NAMES}{next(self._counter)}"
        self._check_name(request_id)
        return request_id

    def _check_name(self, request_id: str | None) -> None:
        if request_id is None:
            return
        if not isinstance(request_id, str) or not 1 <= len(request_id) <= 256:
            raise InvalidRequestError(
                f"request_id: expected a text of 1 to 256 characters, got {excerpt_of(request_id, 40)}",
                param="request_id",
            )
        if request_id.startswith(_OWN_NAMES):
            raise InvalidRequestError(
                f"request_id: names that begin with {_OWN_NAMES!r} are the engine's own, "
                f"got {excerpt_of(request_id, 40)}",
                param="request_id",
            )
