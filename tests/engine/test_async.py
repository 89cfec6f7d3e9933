"""AsyncEngine: the same answers, cancellation by task, queues and streams."""

import asyncio
import gc
import random
import time

import pytest

from llada_rt import (
    AsyncEngine,
    Engine,
    EngineClosedError,
    Hole,
    InvalidRequestError,
    QueueFullError,
    SamplingParams,
)
from tests.data.make_goldens import CHECKPOINT, IDS

OPTIONS = {"compute_type": "float32", "threads": 2, "eot_token_id": IDS.eot}
PARAMS = SamplingParams(gen_length=16, block_length=4, preset="quality", seed=1)
HOLE = Hole(3, regex="[a-z]+")
LONG = SamplingParams(gen_length=100, block_length=1, preset="quality", eos_early_stop=False)


def tokens(outputs):
    return [output.outputs[0].token_ids for output in outputs]


async def idle(service):
    """Its counters back at zero and no request registered within a second."""
    stepper = service.engine._dispatcher._stepper
    for _ in range(200):
        stats = service.stats()
        state = (stats.num_running, stats.num_waiting, stats.kv_used_bytes, len(stepper.jobs), stepper.has_work)
        if state == (0, 0, 0, 0, False):
            return
        await asyncio.sleep(0.005)
    raise AssertionError(state)


def test_answers_are_those_of_engine(engine: Engine):
    async def main():
        async with AsyncEngine(CHECKPOINT, **OPTIONS) as service:
            many = await asyncio.gather(*(service.generate([[n], [n, n]], PARAMS) for n in range(20)))
            for n, outputs in enumerate(many):
                assert tokens(outputs) == tokens(engine.generate([[n], [n, n]], PARAMS))
            assert (await service.infill([[1], 3], PARAMS)).outputs == engine.infill([[1], 3], PARAMS).outputs
            assert await service.score([1], [2, 3], mc_num=20) == engine.score([1], [2, 3], mc_num=20)
            assert ((await service.forward([1, 2])) == engine.forward([1, 2])).all()
            for mode in ("append", "denoise"):
                events = [event async for event in service.stream([1, 2], PARAMS, mode=mode)]
                assert tokens([events[-1].output]) == tokens(engine.generate([[1, 2]], PARAMS))
            # Its Engine is there for other threads.
            assert tokens(await asyncio.to_thread(service.engine.generate, [[7]], PARAMS)) == tokens(
                engine.generate([[7]], PARAMS)
            )
            await idle(service)

    asyncio.run(main())


def test_text_and_chat(text_folder):
    async def main():
        async with AsyncEngine(text_folder, threads=1) as service:
            output = await service.chat([{"role": "user", "content": "hi"}], PARAMS)
            told = [
                e.text_delta
                async for e in service.stream({"messages": [{"role": "user", "content": "hi"}]}, PARAMS, mode="append")
            ]
            assert "".join(told) == output.text

    asyncio.run(main())


def test_errors_come_as_they_are():
    async def main():
        async with AsyncEngine(CHECKPOINT, **OPTIONS, max_num_seqs=1, max_num_queued_reqs=3) as service:
            with pytest.raises(InvalidRequestError):
                await service.generate([[999]], PARAMS)
            with pytest.raises(InvalidRequestError):
                service.stream([], PARAMS)
            calls = [asyncio.create_task(service.generate([[n]], LONG)) for n in range(30)]
            done = await asyncio.gather(*calls, return_exceptions=True)
            refused = [result for result in done if isinstance(result, QueueFullError)]
            assert refused
            assert len(refused) < 30
            await idle(service)
            assert await service.generate([[1]], PARAMS)

    asyncio.run(main())


async def cancel_at_random(number, seed):
    choice = random.Random(seed)
    async with AsyncEngine(CHECKPOINT, **OPTIONS, max_num_seqs=4, max_num_queued_reqs=64) as service:
        expected = await service.generate([[1, 2, 3]], PARAMS)
        steady = [asyncio.create_task(service.generate([[1, 2, 3]], PARAMS)) for _ in range(4)]

        async def read(stream):
            async for _ in stream:
                await asyncio.sleep(0)

        def victim():
            kind = choice.randrange(5)
            params = LONG.replace(cfg_scale=choice.choice([0, 1.0]), n=choice.choice([1, 2]))
            if kind == 0:
                return service.score([1, 2], [3] * 9, mc_num=64)
            if kind == 1:
                return read(service.stream([choice.randrange(99)], params))
            return service.generate([[choice.randrange(99)]], params)

        for _ in range(number):
            task = asyncio.create_task(victim())
            await asyncio.sleep(choice.choice([0, 0.0005, 0.002, 0.01]))
            task.cancel()
            if choice.random() < 0.5:
                await asyncio.gather(task, return_exceptions=True)
            if choice.random() < 0.05:
                steady.append(asyncio.create_task(service.generate([[1, 2, 3]], PARAMS)))
        for outputs in await asyncio.gather(*steady):
            assert tokens(outputs) == tokens(expected)
        await idle(service)
        assert service.engine.num_open_slots == 0


def test_a_hundred_cancellations():
    asyncio.run(cancel_at_random(100, 0))


@pytest.mark.slow
def test_two_thousand_cancellations():
    asyncio.run(cancel_at_random(2000, 1))


def test_leaving_a_stream_cancels():
    async def main():
        async with AsyncEngine(CHECKPOINT, **OPTIONS) as service:
            async for _ in (stream := service.stream([1], LONG)):
                break
            await stream.aclose()
            await idle(service)
            never_started = service.stream([1], LONG)
            del never_started
            gc.collect()
            await idle(service)

    asyncio.run(main())


def test_close_ends_what_is_under_way():
    async def main():
        service = AsyncEngine(CHECKPOINT, **OPTIONS)
        calls = [asyncio.create_task(service.generate([[n]], LONG)) for n in range(20)]
        await asyncio.sleep(0.02)
        await service.close()
        await service.close()
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, EngineClosedError) or result[0].outputs
        with pytest.raises(EngineClosedError):
            await service.generate([[1]], PARAMS)
        with pytest.raises(EngineClosedError):
            async with service:
                pass
        assert not service.engine._dispatcher.thread.is_alive()

    asyncio.run(main())


def test_from_one_event_loop_after_another():
    service = AsyncEngine(CHECKPOINT, **OPTIONS)

    async def leave_in_the_middle():
        asyncio.get_running_loop().create_task(service.generate([[1]] * 3, LONG))
        await asyncio.sleep(0.01)

    async def ask():
        return await service.generate([[1]], PARAMS)

    asyncio.run(leave_in_the_middle())
    first = asyncio.run(ask())
    assert tokens(asyncio.run(ask())) == tokens(first)
    asyncio.run(service.close())


def test_more_prompts_than_may_wait_wait_for_a_place(engine: Engine):
    async def main():
        async with AsyncEngine(CHECKPOINT, **OPTIONS, max_num_seqs=2, max_num_queued_reqs=3) as service:
            prompts = [[n] for n in range(40)]
            outputs = await asyncio.wait_for(service.generate(prompts, PARAMS), 60)
            assert tokens(outputs) == tokens(engine.generate(prompts, PARAMS))
            # Two such calls, and one in between: nobody is refused for ever, and they leave room.
            calls = [asyncio.create_task(service.generate(prompts, PARAMS)) for _ in range(2)]
            results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 60)
            done = [result for result in results if not isinstance(result, QueueFullError)]
            assert done
            assert all(tokens(result) == tokens(outputs) for result in done)
            # Cancelled in the middle.
            task = asyncio.create_task(service.generate(prompts, LONG))
            await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await idle(service)

    asyncio.run(main())


def test_a_stream_says_before_its_first_event_what_is_wrong():
    async def main():
        async with AsyncEngine(CHECKPOINT, **OPTIONS, max_num_seqs=1, max_num_queued_reqs=2) as service:
            denoise = service.engine._runner.denoise
            service.engine._runner.denoise = lambda plan: (time.sleep(0.05), denoise(plan))[1]
            calls = [asyncio.create_task(service.generate([[1]], LONG)) for _ in range(3)]
            while service.stats().num_waiting < 2:
                await asyncio.sleep(0.001)
            for stream in (service.stream, service.engine.stream):
                with pytest.raises(QueueFullError, match="2 requests wait, and 2 may"):
                    stream([1], PARAMS)
                with pytest.raises(InvalidRequestError, match="mode"):
                    stream([1], PARAMS, mode="both")
                with pytest.raises(InvalidRequestError, match="request_id"):
                    stream([1], PARAMS, request_id="")
                with pytest.raises(InvalidRequestError, match="params"):
                    stream([1], 3)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await idle(service)
            late = service.stream({"prompt_token_ids": []}, PARAMS)
            with pytest.raises(InvalidRequestError, match="empty"):
                await late.start()
            with pytest.raises(StopAsyncIteration):
                await anext(late)
            good = await service.stream([1], PARAMS).start()
            assert service.stats().num_running + service.stats().num_waiting + len(good._job.events) > 0
            assert [event async for event in good][-1].finished
            await good.aclose()
            await idle(service)

    asyncio.run(main())
