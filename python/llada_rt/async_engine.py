"""AsyncEngine: the verbs of Engine for asyncio. The engine's thread steps; the event loop never waits for a step."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from collections.abc import Sequence as SequenceOf
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, cast, overload

import numpy as np
from numpy.typing import NDArray

from .config import EngineConfig, EngineOptions
from .engine import Engine
from .options.types import with_options
from .outputs import EngineStats, RequestOutput, ScoreOutput, StepEvent, TextEvent
from .params import SamplingParams
from .runtime.dispatcher import LOOK_AGAIN_S, Dispatcher
from .runtime.generate_job import GenerateJob, StreamMode
from .runtime.jobs import Job
from .runtime.letters import Owner
from .text.requests import Prompt, Segments

Given = TypeVar("Given", StepEvent, TextEvent)
Result = TypeVar("Result")
_QUICK_CHARS = 1000  # text that is encoded, and samples that are made, faster than a thread is asked to do it
_QUICK_SAMPLES = 16


class AsyncEngine:
    """An Engine whose calls are awaited; each may come from any event loop. An async context manager.

    Cancelling the task that awaits a call, or closing a stream, takes the request out after the step under way. The
    arguments are those of Engine, which is there as `engine`: its own calls may be mixed with these. Loading a model
    takes a while, in which the event loop stands still; `await AsyncEngine.open(...)` loads it beside the loop.

    If the thread that steps should end, all its requests end with InternalError, and `check_health` raises it.
    """

    def __init__(self, model_dir: str | os.PathLike[str] | None = None, **options: Unpack[EngineOptions]) -> None:
        self.engine = Engine(model_dir, **options)
        self._dispatcher = self.engine._dispatcher

    @classmethod
    async def open(cls, model_dir: str | os.PathLike[str] | None = None, **options: Unpack[EngineOptions]) -> Self:
        """The same as AsyncEngine(...), loaded while the event loop goes on: `async with await AsyncEngine.open():`"""
        return await asyncio.to_thread(functools.partial(cls, model_dir, **options))

    async def generate(
        self,
        prompts: Prompt | SequenceOf[Prompt],
        params: SamplingParams | SequenceOf[SamplingParams] | None = None,
        *,
        request_ids: SequenceOf[str] | None = None,
    ) -> list[RequestOutput]:
        """As Engine.generate: QueueFullError if the first finds the queue full; the later ones wait for a place."""
        make = functools.partial(self.engine._intake.generate_jobs, prompts, params, request_ids)
        jobs = await self._made(make, is_quick=_is_quick(prompts, params, self.engine.default_params))
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
    ) -> EventStream[StepEvent]: ...

    @overload
    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        mode: Literal["append"],
        request_id: str | None = None,
    ) -> EventStream[TextEvent]: ...

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        mode: StreamMode = "denoise",
        request_id: str | None = None,
    ) -> EventStream[Any]:
        """As Engine.stream; the request is queued when the first event is asked for, or by `await stream.start()`.

        Raises at once what can be seen at once, QueueFullError too; the rest comes before the first event.
        """
        engine = self.engine
        engine._intake.check_stream(params, mode, request_id)
        self._dispatcher.check_room()
        make = functools.partial(engine._intake.stream_job, prompt, params, mode, request_id)
        if _is_quick(prompt, params, engine.default_params):
            job = make()
            return EventStream(self._dispatcher, lambda: job, is_quick=True)
        return EventStream(self._dispatcher, make, is_quick=False)

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
        make = functools.partial(
            self.engine._intake.score_job,
            prompt,
            answer,
            mc_num=mc_num,
            seed=seed,
            noise=noise,
            cfg_scale=cfg_scale,
            request_id=request_id,
        )
        job = await self._made(make, is_quick=False)
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

    async def __aenter__(self) -> AsyncEngine:
        self._dispatcher.check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _made(self, make: Callable[[], Result], *, is_quick: bool) -> Result:
        """Requests read and checked: encoding, templates, expressions and draws are work for another thread.

        Raises QueueFullError before that work if there is no place now: a refusal must be cheap when many ask.
        """
        self._dispatcher.check_open()
        self._dispatcher.check_room()
        return make() if is_quick else await asyncio.to_thread(make)

    async def _run(self, jobs: SequenceOf[Job]) -> None:
        """Queue the jobs as there is room and wait until all are done; whatever ends the wait early takes them out."""
        waiting, under_way = deque(jobs), list[Job]()
        owner, bell = Owner(), _Bell()
        for job in jobs:
            job.notify = bell.ring
        try:
            while True:
                under_way = [job for job in under_way if not job.has_ended]
                self._dispatcher.top_up(waiting, under_way, owner, is_first=len(waiting) == len(jobs))
                if not under_way and not waiting:
                    return
                await bell.rung(LOOK_AGAIN_S if waiting else None)
        finally:
            for job in jobs:
                self._dispatcher.drop(job)


AsyncEngine.__signature__ = inspect.signature(Engine)  # type: ignore[attr-defined]
AsyncEngine.__doc__ = with_options(AsyncEngine.__doc__, EngineConfig)


class EventStream(AsyncIterator[Given]):
    """The events of one request. Closing it, or leaving it to be collected, cancels the request."""

    def __init__(self, dispatcher: Dispatcher, make: Callable[[], GenerateJob], *, is_quick: bool) -> None:
        self._dispatcher = dispatcher
        self._make = make
        self._is_quick = is_quick
        self._job: GenerateJob | None = None
        self._bell: _Bell | None = None
        self._is_closed = False

    async def start(self) -> Self:
        """Wait until the request is queued. Raises what is wrong with it; the first event would do so too."""
        if self._job is None and not self._is_closed:
            try:
                job = self._make() if self._is_quick else await asyncio.to_thread(self._make)
                if self._is_closed:  # meanwhile
                    return self
                self._dispatcher.submit(job, self)
            except BaseException:
                self._close()
                raise
            self._job = job
        return self

    async def __anext__(self) -> Given:
        await self.start()
        if self._job is None or self._is_closed:
            raise StopAsyncIteration
        try:
            if self._bell is None:
                self._bell = _Bell()
                self._job.notify = self._bell.ring
            while not self._job.events:
                if self._job.has_ended and not self._job.events:
                    self._job.result()
                    raise StopAsyncIteration
                await self._bell.rung()
            return cast("Given", self._job.events.popleft())
        except BaseException:
            self._close()
            raise

    async def aclose(self) -> None:
        """Cancel the request. Closing twice does nothing."""
        self._close()

    def _close(self) -> None:
        if not self._is_closed and self._job is not None:
            self._dispatcher.drop(self._job)
        self._is_closed = True


class _Bell:
    """Wakes the event loop when a job has something new."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def ring(self) -> None:
        """From the thread that steps."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._event.set)

    async def rung(self, most_s: float | None = None) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._event.wait(), most_s)
        self._event.clear()


def _is_quick(prompts: object, params: object, defaults: SamplingParams) -> bool:
    """Whether the requests are made in less time than another thread takes to begin."""
    for given in params if isinstance(params, (list, tuple)) else [params or defaults]:
        if not isinstance(given, SamplingParams):
            return False
        one = given.over(defaults)
        if one.regex is not None or one.choice or one.n > _QUICK_SAMPLES:
            return False
    if isinstance(prompts, str):
        return len(prompts) <= _QUICK_CHARS
    # Ids, whose number is looked at first.
    return isinstance(prompts, (list, tuple)) and (not prompts or isinstance(prompts[0], int))
