"""AsyncEngine: the methods of Engine for asyncio. The engine's thread runs the steps; the event loop never waits."""

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
from .engine import Engine, parts_of
from .options.docstrings import with_options, with_sections_of
from .options.renamed import by_new_names
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

    Cancelling the task that awaits a call, or closing a stream, takes the request out after the step under way. Loading
    a model takes a while, in which the event loop stands still; `await AsyncEngine.open(...)` loads it beside the loop.

    If the thread that steps should end, all its requests end with InternalError, and `check_health` raises it.

    Args:
        model_dir: Folder in the published Hugging Face layout. None: the demo model that comes with the package.

    Attributes:
        engine: The Engine that serves the calls. Calls of its own methods may be mixed with these.

    Raises:
        LladaRtError: As Engine raises.
    """

    def __init__(self, model_dir: str | os.PathLike[str] | None = None, **options: Unpack[EngineOptions]) -> None:
        self.engine = Engine(model_dir, **options)
        self._intake, self._dispatcher = parts_of(self.engine)

    @classmethod
    async def open(cls, model_dir: str | os.PathLike[str] | None = None, **options: Unpack[EngineOptions]) -> Self:
        """The same as AsyncEngine(...), loaded while the event loop goes on: `async with await AsyncEngine.open():`

        Args:
            model_dir: Folder in the published Hugging Face layout. None: the demo model that comes with the package.
            **options: As AsyncEngine takes them.

        Returns:
            The engine, ready for requests.

        Raises:
            LladaRtError: As Engine raises.
        """
        return await asyncio.to_thread(functools.partial(cls, model_dir, **by_new_names(options)))

    @with_sections_of(Engine.generate)
    async def generate(
        self,
        prompts: Prompt | SequenceOf[Prompt],
        params: SamplingParams | SequenceOf[SamplingParams] | None = None,
        *,
        request_ids: SequenceOf[str] | None = None,
    ) -> list[RequestOutput]:
        """Answer one prompt or many; see Engine.generate."""
        make = functools.partial(self._intake.generate_jobs, prompts, params, request_ids)
        jobs = await self._made(make, is_quick=_is_quick(prompts, params, self.engine.default_params))
        await self._run(jobs)
        return [job.result() for job in jobs]

    @with_sections_of(Engine.chat)
    async def chat(
        self,
        messages: SequenceOf[Mapping[str, Any]],
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> RequestOutput:
        """Answer a conversation through the model's chat template; see Engine.chat."""
        names = None if request_id is None else [request_id]
        prompt = {"messages": messages, "chat_template_kwargs": chat_template_kwargs}
        return (await self.generate(prompt, params, request_ids=names))[0]

    @with_sections_of(Engine.infill)
    async def infill(
        self, segments: Segments, params: SamplingParams | None = None, *, request_id: str | None = None
    ) -> RequestOutput:
        """Fill the holes of a template; see Engine.infill."""
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
        """Answer one prompt, and tell each step of the way; see Engine.stream.

        The request is queued when the first event is asked for, or by `await stream.start()`.

        Args:
            prompt: A prompt in any form that `generate` takes, without holes of bounded length.
            params: Decoding options. What they leave open is as the model says (`Engine.default_params`).
            mode: "denoise": a StepEvent for each step. "append": a TextEvent whenever there is text that can no longer
                change.
            request_id: A name for `abort`: 1 to 256 characters, used by no other request under way.

        Returns:
            An asynchronous iterator of events. Joined, their `text_delta`s are the text of the output, which the last
            event has. Closing the stream with `aclose`, or leaving it to be collected, cancels the request.

        Raises:
            InvalidRequestError: At the call: `mode`, `params` or `request_id` cannot be used.
            QueueFullError: At the call if the queue is full then, at the first event if the queue has filled since.
            LladaRtError: Before the first event or from the iterator, as `generate` raises for one prompt.
        """
        self._intake.check_stream(params, mode, request_id)
        self._dispatcher.check_room()
        make = functools.partial(self._intake.stream_job, prompt, params, mode, request_id)
        if _is_quick(prompt, params, self.engine.default_params):
            job = make()
            return EventStream(self._dispatcher, lambda: job, is_quick=True)
        return EventStream(self._dispatcher, make, is_quick=False)

    @with_sections_of(Engine.score)
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
        """Monte Carlo log-likelihood of `answer` after `prompt`; see Engine.score."""
        make = functools.partial(
            self._intake.score_job,
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

    @with_sections_of(Engine.forward)
    async def forward(self, token_ids: SequenceOf[int]) -> NDArray[np.float32]:
        """Logits of one forward pass; see Engine.forward. The call cannot be cancelled once it runs."""
        return await asyncio.to_thread(self.engine.forward, token_ids)

    @with_sections_of(Engine.abort)
    def abort(self, request_id: str) -> bool:
        """End a request as it is; see Engine.abort. The call waits for nothing."""
        return self.engine.abort(request_id)

    @with_sections_of(Engine.stats)
    def stats(self) -> EngineStats:
        """What runs and waits now, and what has been done; see Engine.stats. The call waits for nothing."""
        return self.engine.stats()

    @with_sections_of(Engine.check_health)
    def check_health(self, *, stuck_after_s: float = 60.0) -> None:
        """Return if the engine can serve requests, raise if not. The call waits for nothing."""
        self.engine.check_health(stuck_after_s=stuck_after_s)

    async def close(self) -> None:
        """Free the model beside the event loop; see Engine.close.

        Requests under way end with EngineClosedError, and so does each later call.
        """
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
    """The events of one request, in order. Closing the stream, or leaving it to be collected, cancels the request."""

    def __init__(self, dispatcher: Dispatcher, make: Callable[[], GenerateJob], *, is_quick: bool) -> None:
        self._dispatcher = dispatcher
        self._make = make
        self._is_quick = is_quick
        self._job: GenerateJob | None = None
        self._bell: _Bell | None = None
        self._is_closed = False

    async def start(self) -> Self:
        """Wait until the request is queued. Without this call the first event does so.

        Returns:
            The stream itself.

        Raises:
            LladaRtError: The prompt or an option cannot be run, or the queue is full; see AsyncEngine.stream.
        """
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
