"""The CUDA backend, whole: on a GPU where there is one, else in the imitation (tests/cuda_host.py)."""

from collections.abc import Callable
from typing import Any

import pytest

from llada_rt import Engine, device, runner
from tests import cuda_host

HAS_GPU = device.missing_cuda() is None


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
    if HAS_GPU:
        pytest.skip("this machine has a GPU: the imitation is not what runs")
    return cuda_host.library()
