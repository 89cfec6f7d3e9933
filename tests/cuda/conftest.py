"""The CUDA backend, whole: on a GPU where there is one, else in the imitation (tests/cuda_host.py)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llada_rt import Engine
from llada_rt.runtime import device, runner
from tests import cuda_host

HAS_GPU = device.missing_cuda() is None
# Files that ask the imitation's library alone; elsewhere a test says so by its fixture.
OF_THE_IMITATION = {"test_attention_plan.py", "test_imitation.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what proves the imitation, and skips it on a GPU, where it would be compiled for nothing."""
    for item in items:
        if not item.path.is_relative_to(Path(__file__).parent):
            continue
        if item.path.name in OF_THE_IMITATION or "imitation" in getattr(item, "fixturenames", ()):
            item.add_marker("imitation")
        if HAS_GPU and item.get_closest_marker("imitation") is not None:
            item.add_marker(pytest.mark.skip(reason="proves the imitation of a GPU, and here is a GPU"))


@pytest.fixture
def open_engine(monkeypatch) -> Callable[..., Engine]:
    """Engine(folder, device="cuda", ...)."""
    cuda_host.add_table()
    if not HAS_GPU:
        monkeypatch.setattr(device, "missing_cuda", lambda: None)
        monkeypatch.setattr(runner, "device_facts", lambda index: {"name": "imitation", "index": index})

    def open_one(folder: Any = None, **options: Any) -> Engine:
        return Engine(folder, device="cuda", **options)

    return open_one


@pytest.fixture
def imitation() -> Any:
    """The library of the imitation, which counts what is asked of it."""
    cuda_host.add_table()
    return cuda_host.library()
