"""AsyncEngine: the verbs of Engine for asyncio. A thread of its own steps; the event loop never waits for a step."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Mapping
from collections.abc import Sequence as SequenceOf
from types import TracebackType
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from .engine import Engine
from .jobs import Event, Job, StreamMode
from .outputs import EngineStats, RequestOutput, ScoreOutput, StepEvent, TextEvent
from .params import SamplingParams
from .requests import Prompt, Segments


class AsyncEngine:
    """An Engine whose calls are awaited; each may come from any event loop. An async context manager.

    Cancelling the task that awaits a call, or closing a stream, takes the request out after the step under way. The
    arguments are those of Engine, which is there as `engine`: its own calls may be mixed with these.
    """

    def __init__(self, model_dir: str | os.PathLike[str] | None = None, **options: Any) -> None:
        self.engine = Engine(model_dir, **options)
        self._dispatcher = self.engine._dispatcher
        # A daemon: the interpreter closes engines at exit, and does not wait for this thread before it.
        self._thread = threading.Thread(target=self._dispatcher.serve, name="llada-rt", daemon=True)
        self._thread.start()

    async def generate(
        self,
        prompts: Prompt | SequenceOf[Prompt],
        params: SamplingParams | SequenceOf[SamplingParams] | None = None,
        *,
        request_ids: SequenceOf[str] | None = None,
    ) -> list[RequestOutput]:
        """As Engine.generate. All prompts are queued at once: QueueFullError if they are more than may wait."""
        jobs = self.engine._generate_jobs(prompts, params, request_ids)
        await self._run(jobs)
        return [job.result() for job in jobs]

    async def chat(
        self,
        messages: SequenceOf[Mapping[str, Any]],
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> RequestOutput:
        """As Engine.chat."""
        names = None if request_id is None else [request_id]
        prompt = {"messages": messages, "chat_template_kwargs": chat_template_kwargs}
        return (await self.generate(prompt, params, request_ids=names))[0]

    async def infill(
        self, segments: Segments, params: SamplingParams | None = None, *, request_id: str | None = None
    ) -> RequestOutput:
        """As Engine.infill."""
        names = None if request_id is None else [request_id]
        return (await self.generate({"segments": segments}, params, request_ids=names))[0]

    @overload
    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        mode: Literal["denoise"] = "denoise",
        request_id: str | None = None,
    ) -> AsyncIterator[StepEvent]: ...

    @overload
    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        mode: Literal["append"],
        request_id: str | None = None,
    ) -> AsyncIterator[TextEvent]: ...

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        mode: StreamMode = "denoise",
        request_id: str | None = None,
    ) -> AsyncIterator[Event]:
        """As Engine.stream; an asynchronous generator. The request is queued when the first event is asked for."""
        job = self.engine._stream_job(prompt, params, mode, request_id)

        async def events() -> AsyncIterator[Event]:
            news = _Bell(job)
            try:
                self._dispatcher.submit(job)
                while True:
                    while job.events:
                        yield job.events.popleft()
                    if job.is_done and not job.events:
                        job.result()
                        return
                    await news.rung()
            finally:
                self._dispatcher.drop(job)

        return events()

    async def score(
        self,
        prompt: str | SequenceOf[int],
        answer: str | SequenceOf[int],
        *,
        mc_num: int = 128,
        seed: int = 0,
        noise: SequenceOf[Mapping[str, object]] | None = None,
        cfg_scale: float = 0.0,
        request_id: str | None = None,
    ) -> ScoreOutput:
        """As Engine.score."""
        job = self.engine._score_job(
            prompt, answer, mc_num=mc_num, seed=seed, noise=noise, cfg_scale=cfg_scale, request_id=request_id
        )
        await self._run([job])
        return job.result()

    async def forward(self, token_ids: SequenceOf[int]) -> NDArray[np.float32]:
        """As Engine.forward; it cannot be cancelled once it runs."""
        return await asyncio.to_thread(self.engine.forward, token_ids)

    def abort(self, request_id: str) -> bool:
        """As Engine.abort."""
        return self.engine.abort(request_id)

    def stats(self) -> EngineStats:
        """As Engine.stats."""
        return self.engine.stats()

    def check_health(self, *, stuck_after_s: float = 60.0) -> None:
        """As Engine.check_health."""
        self.engine.check_health(stuck_after_s=stuck_after_s)

    async def close(self) -> None:
        """As Engine.close: what is under way ends with EngineClosedError."""
        await asyncio.to_thread(self.engine.close)
        await asyncio.to_thread(self._thread.join)

    async def __aenter__(self) -> AsyncEngine:
        self._dispatcher.check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, jobs: SequenceOf[Job]) -> None:
        """Queue the jobs and wait until all are done; whatever ends the wait early takes them out."""
        try:
            bells = [(job, _Bell(job)) for job in jobs]
            for job in jobs:
                self._dispatcher.submit(job)
            for job, bell in bells:
                while not job.is_done:
                    await bell.rung()
        finally:
            for job in jobs:
                self._dispatcher.drop(job)


class _Bell:
    """Wakes the event loop when a job has something new."""

    def __init__(self, job: Job) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        job.notify = self._ring

    def _ring(self) -> None:
        """From whatever thread steps."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._event.set)

    async def rung(self) -> None:
        await self._event.wait()
        self._event.clear()
