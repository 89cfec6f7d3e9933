"""swiglu: silu(gate) * up in float32, rounded once."""

import numpy as np
import pytest
import torch

from llada_rt import _core
from tests.ops.precision import normal, to_numpy, to_torch
from tests.reference.swiglu import swiglu
from tests.tolerance import assert_accurate


def plain(gate_up: np.ndarray, dtype: str) -> np.ndarray:
    gate, up = to_torch(gate_up, dtype).chunk(2, -1)
    return to_numpy(torch.nn.functional.silu(gate) * up)


@pytest.mark.parametrize("hidden", [1, 7, 8, 15, 16, 17, 64, 72, 1025])
@pytest.mark.parametrize("rows", [0, 1, 7, 65])
def test_swiglu(ops, dtype, rows, hidden):
    gate_up = normal(np.random.default_rng(rows + hidden), rows, 2 * hidden, dtype=dtype, scale=3)
    assert_accurate(ops.swiglu(gate_up, dtype), swiglu(gate_up), plain(gate_up, dtype), dtype)


def test_swiglu_saturates_quietly(ops, dtype):
    """exp(-gate) overflows far left: the result is 0, not NaN; far right silu is the gate."""
    gate_up = np.array([[-1e4, -90, -88, 0, 88, 90, 1e4, 1, *[1] * 8]], np.float32)
    with np.errstate(over="ignore"):
        want = swiglu(gate_up)
    assert_accurate(ops.swiglu(gate_up, dtype), want, plain(gate_up, dtype), dtype)


def test_swiglu_feels_neither_threads_nor_neighbours(table, dtype):
    gate_up = normal(np.random.default_rng(1), 33, 2 * 129, dtype=dtype)
    runs = [_core.Ops(table, threads).swiglu(gate_up, dtype) for threads in (1, 2, 3)]
    assert np.array_equal(runs[0], runs[1])
    assert np.array_equal(runs[0], runs[2])
    assert np.array_equal(runs[0][7:8], _core.Ops(table, 2).swiglu(gate_up[7:8], dtype))
