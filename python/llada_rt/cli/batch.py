"""Many requests through one engine. The requests run together; their results are told in the order of the requests.

However long the input is, only so many requests are held as keep the engine busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..async_engine import AsyncEngine
from ..errors import EngineClosedError, EngineStuckError, InternalError, LladaRtError, QueueFullError
from ..outputs import RequestOutput, ScoreOutput
from .batch_input import Ask, Refused, Scoring

Result = RequestOutput | ScoreOutput | Refused
Tell = Callable[[Ask, Result], None]
_Results = asyncio.Queue[tuple[Ask, asyncio.Task[Result]] | BaseException | None]  # in order; None: there are no more

_FATAL = (EngineClosedError, EngineStuckError, InternalError)  # would meet all lines that follow
_LOOK_AGAIN_S = 0.05  # for a place in the queue


@dataclass(slots=True)
class Tally:
    """What has come of the lines."""

    num_done: int = 0
    num_refused: int = 0
    first_refused: Refused | None = None

    def count(self, result: Result) -> None:
        if isinstance(result, Refused):
            self.num_refused += 1
            self.first_refused = self.first_refused or result
        else:
            self.num_done += 1


async def run_batch(engine: AsyncEngine, asks: Iterator[Ask], tell: Tell, tally: Tally) -> None:
    """Run what is asked for and `tell` the results, in order, as they come. `tally` counts what was told.

    Cancelled, it tells what is done and leaves out the rest.
    """
    config = engine.engine.config
    window = max(2, min(4 * config.max_num_seqs, config.max_num_queued_reqs))
    room = threading.Semaphore(window)
    results: _Results = asyncio.Queue()
    under_way: set[asyncio.Task[Result]] = set()
    loop = asyncio.get_running_loop()
    is_over = threading.Event()

    def take(ask: Ask) -> None:
        task = loop.create_task(_result(engine, ask))
        under_way.add(task)
        task.add_done_callback(ended)
        results.put_nowait((ask, task))

    def ended(task: asyncio.Task[Result]) -> None:
        under_way.discard(task)
        if not task.cancelled():
            task.exception()  # may be one that nobody waits for any more

    def read() -> None:
        """In a thread of its own, which may wait for input for ever."""
        end: BaseException | None = None
        try:
            for ask in asks:
                room.acquire()
                if is_over.is_set():
                    return
                loop.call_soon_threadsafe(take, ask)
        except BaseException as error:
            end = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(results.put_nowait, end)

    threading.Thread(target=read, name="llada-rt-input", daemon=True).start()
    try:
        while (item := await results.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            ask, task = item
            try:
                result = await task
            except asyncio.CancelledError:
                results.put_nowait(item)
                raise
            tell(ask, result)
            tally.count(result)
            room.release()
    except asyncio.CancelledError:
        _tell_done(results, tell, tally)
        raise
    finally:
        is_over.set()
        room.release()
        for task in list(under_way):
            task.cancel()


def _tell_done(results: _Results, tell: Tell, tally: Tally) -> None:
    """The finished results among those that wait to be told, in order of the lines."""
    waiting = []
    while not results.empty():
        item = results.get_nowait()
        if isinstance(item, tuple):
            waiting.append(item)
    for ask, task in sorted(waiting, key=lambda item: item[0].line):
        if task.done() and not task.cancelled() and task.exception() is None:
            tell(ask, task.result())
            tally.count(task.result())


async def _result(engine: AsyncEngine, ask: Ask) -> Result:
    if isinstance(ask, Refused):
        return ask
    while True:
        try:
            if isinstance(ask, Scoring):
                return await engine.score(**ask.options)
            return (await engine.generate([ask.prompt], ask.params))[0]
        except QueueFullError:
            await asyncio.sleep(_LOOK_AGAIN_S)
        except _FATAL:
            raise
        except LladaRtError as error:
            return Refused(ask.line, ask.id, error)
