"""Engines on the tiny checkpoint. One per test session: a test must leave it idle, and the fixture checks that."""

from collections.abc import Iterator
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
    assert (engine.num_running, engine.num_waiting, engine.num_open_slots) == (0, 0, 0)


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
