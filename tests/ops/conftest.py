"""What every op test is run over: the tables this machine has, that of the CUDA backend, and both compute types.

Without a GPU the kernels of the CUDA backend run in an imitation, slowly: tests may leave large cases out there."""

import pytest

from llada_rt import _core
from llada_rt.runtime import device
from tests import cuda_host


# Not _core.tables(): whether "cuda" is among those yet depends on what was collected before.
@pytest.fixture(params=[*device.cpu_tables(), "cuda"])
def table(request) -> str:
    if request.param == "cuda":
        cuda_host.add_table()
    return request.param


@pytest.fixture(params=["float32", "bfloat16"])
def dtype(request) -> str:
    return request.param


@pytest.fixture
def ops(table: str) -> "_core.Ops":
    return _core.Ops(table, 2)
