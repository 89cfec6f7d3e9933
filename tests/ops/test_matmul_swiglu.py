"""matmul_swiglu: silu(x gate^T) * (x up^T), the sums in float32, the result rounded once."""

import numpy as np
import pytest
import torch

from llada_rt import _core
from tests.ops.precision import normal, to_numpy, to_torch
from tests.reference.matmul import matmul
from tests.reference.swiglu import swiglu
from tests.tolerance import assert_accurate


def plain(gate_up: np.ndarray, dtype: str) -> np.ndarray:
    gate, up = to_torch(gate_up, dtype).chunk(2, -1)
    return to_numpy(torch.nn.functional.silu(gate) * up)


def of_identity(ops, gate_up: np.ndarray, dtype: str) -> np.ndarray:
    """The activation alone: the product with an identity hands gate and up on as they are."""
    return ops.matmul_swiglu(gate_up, np.eye(gate_up.shape[1], dtype=np.float32), dtype, dtype)


@pytest.mark.parametrize("hidden", [1, 7, 8, 15, 16, 17, 31, 32, 33, 64, 72, 129])
@pytest.mark.parametrize("rows", [0, 1, 7, 65])
def test_activation(ops, dtype, rows, hidden):
    gate_up = normal(np.random.default_rng(rows + hidden), rows, 2 * hidden, dtype=dtype, scale=3)
    assert_accurate(of_identity(ops, gate_up, dtype), swiglu(gate_up), plain(gate_up, dtype), dtype)


@pytest.mark.parametrize(
    ("rows", "hidden", "inputs"), [(1, 1, 1), (5, 33, 7), (6, 63, 64), (97, 65, 130), (32, 96, 257)]
)
def test_product_and_activation(ops, dtype, rows, hidden, inputs):
    rng = np.random.default_rng(rows)
    x, weight = normal(rng, rows, inputs, dtype=dtype), normal(rng, 2 * hidden, inputs, dtype=dtype, scale=0.2)
    got = ops.matmul_swiglu(x, weight, dtype, dtype)
    terms = (np.abs(x) @ np.abs(weight).T).max() ** 2
    simple = plain(to_numpy(to_torch(x, dtype) @ to_torch(weight, dtype).T), dtype)
    assert_accurate(got, swiglu(matmul(x, weight)), simple, dtype, magnitude=terms)


def test_swiglu_saturates_quietly(ops, dtype):
    """exp(-gate) overflows far left: the result is 0, not NaN; far right silu is the gate."""
    gate_up = np.array([[-1e4, -90, -88, 0, 88, 90, 1e4, 1, *[1] * 8]], np.float32)
    with np.errstate(over="ignore"):
        want = swiglu(gate_up)
    assert_accurate(of_identity(ops, gate_up, dtype), want, plain(gate_up, dtype), dtype)


@pytest.mark.parametrize("compute_type", ["float32", "bfloat16", "int8", "int8_bfloat16", "int4"])
def test_matmul_swiglu_feels_neither_threads_nor_neighbours(table, compute_type):
    rng = np.random.default_rng(1)
    x, weight = normal(rng, 101, 130, dtype="bfloat16"), normal(rng, 2 * 129, 130, dtype="bfloat16")
    runs = [_core.Ops(table, threads).matmul_swiglu(x, weight, compute_type, "float32") for threads in (1, 2, 3)]
    assert np.array_equal(runs[0], runs[1])
    assert np.array_equal(runs[0], runs[2])
    alone = _core.Ops(table, 2).matmul_swiglu(x[97:98], weight, compute_type, "float32")
    assert np.array_equal(runs[0][97:98], alone)
