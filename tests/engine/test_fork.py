"""Fork: a child answers or says that it can't; it waits for no lock and no thread of its parent, not even at exit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import llada_rt
from tests.data.make_goldens import CHECKPOINT

BEGIN = f"""
import asyncio, os, sys, threading, time
from llada_rt import AsyncEngine, Engine, SamplingParams
from llada_rt.errors import LladaRtError
FOLDER = {str(CHECKPOINT)!r}
P = SamplingParams(gen_length=8)

def in_child(*uses):
    pid = os.fork()
    if pid:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code:
            sys.exit(code)
        return
    for use in uses:
        try:
            use()
            print("answered", flush=True)
        except LladaRtError as error:
            print(type(error).__name__, flush=True)
    sys.exit(0)  # as a child leaves that does nothing special
"""
IDLE = """
engine = Engine(FOLDER, threads=2)
events = engine.stream([1], P)
for _ in range(30):
    engine.generate([1], P)
    if not os.fork():  # at once after an answer
        engine.generate([1], P)
        os._exit(0)
    assert os.wait()[1] == 0
in_child(lambda: engine.generate([1], P), lambda: next(events), engine.check_health, engine.close)
next(events)
engine.generate([1], P)
"""
IN_A_STEP = """
engine = Engine(FOLDER, threads=2)
started, release = threading.Event(), threading.Event()
denoise = engine._runner.denoise
engine._runner.denoise = lambda plan: (started.set(), release.wait(20), denoise(plan))[2]
thread = threading.Thread(target=engine.generate, args=([1], P))
thread.start()
started.wait()
in_child(lambda: engine.generate([1], P), lambda: engine.forward([1]), engine.check_health, engine.stats, engine.close)
in_child()
release.set()
thread.join()
engine.generate([1], P)
"""
WITH_A_THREAD = """
service = AsyncEngine(FOLDER, threads=2)
asyncio.run(service.generate([1], P))

async def stream():
    async for _ in service.stream([1], P):
        pass

async def anew():
    async with await AsyncEngine.open(FOLDER, threads=1) as other:
        await other.generate([1], P)

in_child(
    lambda: asyncio.run(service.generate([1], P)),
    lambda: asyncio.run(stream()),
    lambda: asyncio.run(service.score([1], [2], mc_num=2)),
    service.check_health,
    lambda: service.engine.generate([1], P),
    lambda: asyncio.run(anew()),
    lambda: asyncio.run(service.close()),
)
asyncio.run(service.generate([1], P))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (IDLE, ["answered"] * 4),
        (IN_A_STEP, ["EngineClosedError"] * 3 + ["answered"] * 2),
        (WITH_A_THREAD, ["answered"] * 7),
    ],
    ids=["idle", "in a step", "with a thread"],
)
def test_a_child_answers_or_says_that_it_cannot(body, said):
    package = Path(llada_rt.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{package}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BEGIN + body],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == said
