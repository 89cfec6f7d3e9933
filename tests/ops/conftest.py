"""What every op test is run over: the tables this machine has, and both compute types."""

import pytest

from llada_rt import _core


@pytest.fixture(params=_core.tables())
def table(request) -> str:
    return request.param


@pytest.fixture(params=["float32", "bfloat16"])
def dtype(request) -> str:
    return request.param


@pytest.fixture
def ops(table: str) -> "_core.Ops":
    return _core.Ops(table, 2)
