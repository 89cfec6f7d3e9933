"""The roofs: of the imitation they mean nothing, but they come, for each type, and end."""

import ctypes

import pytest

from llada_rt import _core
from tests import cuda_host


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "float8"])
def test_measure_peak(dtype):
    cuda_host.add_table()
    assert _core.Ops("cuda", 1).measure_peak(dtype) > 0


def test_read_bandwidth():
    read = cuda_host.doors().llada_read_bandwidth
    read.restype = ctypes.c_double
    assert read() > 0
