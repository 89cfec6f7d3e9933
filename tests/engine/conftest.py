"""Engines on the tiny checkpoint. One per test session: a test must leave it idle, and the fixture checks that."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llada_rt import Engine
from tests.data.make_goldens import CHECKPOINT, IDS
from tests.engine.models import write_folder


@pytest.fixture(scope="session")
def ids_engine() -> Iterator[Engine]:
    with Engine(CHECKPOINT, compute_type="float32", threads=2, eot_token_id=IDS.eot) as engine:
        yield engine


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "tiny-text")


@pytest.fixture(scope="session")
def text_engine(text_folder: Path) -> Iterator[Engine]:
    with Engine(text_folder, compute_type="float32", threads=1) as engine:
        yield engine


def check_idle(engine: Engine) -> None:
    """At the latest when the step under way is over."""
    until, stepper = time.monotonic() + 10, engine._dispatcher._stepper
    while (
        state := (engine.num_running, engine.num_waiting, engine.num_open_slots, len(stepper.jobs), stepper.has_work)
    ) != (0, 0, 0, 0, False):
        assert time.monotonic() < until, state
        time.sleep(0.001)


@contextmanager
def held(engine: Engine) -> Iterator[Callable[[], None]]:
    """The thread that steps waits before each call into the compiled loop; what is given lets one pass."""
    gate, denoise = threading.Semaphore(0), engine._runner.denoise

    def gated(plan):
        assert gate.acquire(timeout=30)
        return denoise(plan)

    engine._runner.denoise = gated
    try:
        yield gate.release
    finally:
        engine._runner.denoise = denoise
        gate.release(1000)


@pytest.fixture
def engine(ids_engine: Engine) -> Iterator[Engine]:
    """Speaks ids; EOS 157, EoT 158, mask 156; context 128."""
    yield ids_engine
    check_idle(ids_engine)


@pytest.fixture
def speaker(text_engine: Engine) -> Iterator[Engine]:
    """The same weights with a tokenizer of single characters and a chat template."""
    yield text_engine
    check_idle(text_engine)
