"""Service: one engine and those who ask it over HTTP. Everything that a request costs the engine goes through here."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from .. import __version__
from ..async_engine import AsyncEngine, EventStream
from ..engine import Engine
from ..outputs import RequestOutput, ScoreOutput, StepEvent, TextEvent
from ..params import SamplingParams
from .decoding import Chosen, read_options
from .errors import DeadlineError, DrainingError, ModelNameError
from .metrics import Metrics
from .settings import ServerSettings

Result = TypeVar("Result")
Event = TextEvent | StepEvent


class Service:
    def __init__(self, engine: AsyncEngine, settings: ServerSettings) -> None:
        self.engine = engine
        self.settings = settings
        folder = Path(str(engine.engine.info()["model_dir"]))
        demo = "llada-rt-demo" if engine.engine.info()["is_demo"] else folder.name or "model"
        self.names: tuple[str, ...] = settings.served_model_name or (demo,)
        self.created = int(time.time())
        self.fingerprint = _fingerprint(engine.engine)
        self.metrics = Metrics(engine.engine, self.names[0])
        self.is_draining = False
        self.num_open = 0  # requests that the gate has let in
        self._live: set[str] = set()  # names of the engine's requests under way

    @property
    def core(self) -> Engine:
        return self.engine.engine

    def check_model(self, name: str | None) -> str:
        """The name to answer with. Raises ModelNameError for a model that is not served."""
        if name is None:
            return self.names[0]
        if name not in self.names:
            raise ModelNameError(
                f"model: expected {' or '.join(self.names)}, got one that is not served", param="model"
            )
        return name

    def read_options(self, given: Mapping[str, Any], more: Mapping[str, Any]) -> Chosen:
        """What a body says of decoding, unknown fields counted."""
        chosen = read_options(given, more, self.settings)
        self.metrics.ignored.inc(len(chosen.ignored))
        return chosen

    # ---------------------------------------------------------------- the engine's work

    async def generate(self, prompts: Sequence[Any], params: SamplingParams) -> list[RequestOutput]:
        with self._named(len(prompts)) as names:
            outputs = await self.engine.generate(list(prompts), params, request_ids=names)
        for output in outputs:
            self._tell(output)
        return outputs

    async def begin(self, prompt: Any, params: SamplingParams, mode: Literal["append", "denoise"]) -> Stream:
        """A stream whose request is queued: what is wrong with it has been raised."""
        name = _name()
        self._live.add(name)
        try:
            if mode == "append":
                events: EventStream[Any] = self.engine.stream(prompt, params, mode="append", request_id=name)
            else:
                events = self.engine.stream(prompt, params, mode="denoise", request_id=name)
            await events.start()
        except BaseException:
            self._live.discard(name)
            raise
        return Stream(self, name, events)

    async def score(self, prompt: Any, answer: Any, **options: Any) -> ScoreOutput:
        with self._named(1) as (name,):
            return await asyncio.wait_for(
                self.engine.score(prompt, answer, request_id=name, **options), self.settings.request_timeout
            )

    async def beside(self, work: Callable[[], Result]) -> Result:
        """Reading of texts, beside the event loop."""
        return await asyncio.to_thread(work)

    def ended(self, name: str) -> None:
        self._live.discard(name)

    def _tell(self, output: RequestOutput) -> None:
        self.metrics.tell_output(output)
        check_end(output)

    def tell_stream(self, output: RequestOutput) -> None:
        """A stream has come to its end. Raises as for an answer that is given at once."""
        self._tell(output)

    @contextmanager
    def _named(self, count: int) -> Iterator[list[str]]:
        names = [_name() for _ in range(count)]
        self._live.update(names)
        try:
            yield names
        finally:
            self._live.difference_update(names)

    # ---------------------------------------------------------------- health and the end

    def check_live(self) -> None:
        """Raises if the engine will never answer again."""
        self.engine.check_health(stuck_after_s=float("inf"))

    def check_progress(self) -> dict[str, Any]:
        """What the engine is doing. Raises if it makes no step although there is work."""
        self.engine.check_health(stuck_after_s=self.settings.stuck_after)
        stats = self.engine.stats()
        since = stats.since_step_s
        facts = {"running": stats.num_running, "waiting": stats.num_waiting, "seconds_since_step": since}
        return facts | {"stuck_after": self.settings.stuck_after, "stuck": (since or 0) > self.settings.stuck_after}

    def abort_all(self) -> int:
        """End what is under way as it is; its callers hear that the server stops."""
        return sum(self.engine.abort(name) for name in list(self._live))


class Stream:
    """The events of one request, told to the metrics. Closing it takes the request out."""

    def __init__(self, service: Service, name: str, events: EventStream[Any]) -> None:
        self._service, self._name, self._events = service, name, events

    async def events(self) -> AsyncGenerator[Event, None]:
        seconds = self._service.metrics.seconds
        began = last = time.monotonic()
        has_text = False
        try:
            async with aclosing(self._events) as events:
                async for event in events:
                    now = time.monotonic()
                    if event.text_delta and not has_text:
                        seconds["time_to_first_text_seconds"].observe(now - began)
                        has_text = True
                    elif last != began:
                        seconds["inter_chunk_latency_seconds"].observe(now - last)
                    last = now
                    if event.output is not None:
                        self._service.tell_stream(event.output)
                    yield event
        finally:
            self._service.ended(self._name)

    async def aclose(self) -> None:
        """Closing twice does nothing."""
        self._service.ended(self._name)
        await self._events.aclose()


def check_end(output: RequestOutput) -> None:
    """Raises if a request has ended in a way that is no answer: by the server's end, or before its first step."""
    reasons = {completion.finish_reason for completion in output.outputs}
    if "abort" in reasons:
        raise DrainingError("the server stops; the request was ended before it was done", hint="try again")
    if "timeout" in reasons and output.metrics.queue_s is None:
        raise DeadlineError(
            f"the request waited for {output.metrics.total_s:.1f} s, which is all its time (timeout_s)",
            param="timeout_s",
        )


def _name() -> str:
    return uuid.uuid4().hex


def _fingerprint(engine: Engine) -> str:
    """A name of the build, the arithmetic and the model's shape. Under another name a seed may give another answer."""
    facts = engine.info()
    told = {key: facts[key] for key in ("num_parameters", "weight_bytes", "compute_type", "device", "table", "model")}
    text = json.dumps(told | {"version": __version__}, sort_keys=True, default=str)
    return "fp_" + hashlib.sha256(text.encode()).hexdigest()[:16]
