"""matmul: products of the compute type accumulate in float32; with a residual the float32 sum comes back unrounded."""

import numpy as np
import pytest

from llada_rt import _core
from tests.ops.precision import normal, to_numpy, to_torch
from tests.reference.matmul import matmul
from tests.tolerance import assert_accurate

# (rows, outputs, inputs): 1, one below and above the register tile (6 rows, 64 outputs) and the cache blocks.
SHAPES = [
    (0, 8, 8),
    (1, 1, 1),
    (1, 64, 32),
    (1, 1025, 257),
    (2, 63, 7),
    (5, 65, 8),
    (6, 64, 64),
    (7, 129, 33),
    (12, 17, 1024),
    (13, 16, 1025),
    (31, 15, 2),
    (63, 191, 96),
    (64, 1024, 48),
    (65, 130, 511),
    (129, 72, 160),
    (257, 33, 130),
]


def plain(x: np.ndarray, weight: np.ndarray, residual: np.ndarray | None, dtype: str) -> np.ndarray:
    product = to_numpy(to_torch(x, dtype) @ to_torch(weight, dtype).T)
    return product if residual is None else product + residual


@pytest.mark.parametrize("with_residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize(("rows", "outputs", "inputs"), SHAPES)
def test_matmul(ops, dtype, rows, outputs, inputs, with_residual):
    rng = np.random.default_rng(rows + outputs + inputs)
    x, weight = normal(rng, rows, inputs, dtype=dtype), normal(rng, outputs, inputs, dtype=dtype)
    residual = normal(rng, rows, outputs, dtype="float32") if with_residual else None
    got = ops.matmul(x, weight, dtype, residual)
    terms = np.abs(x) @ np.abs(weight).T + (0 if residual is None else np.abs(residual))
    # A residual sum is float32 whatever the operands are, so it must be as good as float32.
    result = "float32" if with_residual else dtype
    want, simple = matmul(x, weight, residual), plain(x, weight, residual, result)
    assert_accurate(got, want, simple, result, magnitude=terms.max(initial=0))


def test_matmul_of_integers_is_exact(ops, dtype):
    """Small integers have no rounding: a wrong element shows whatever its size."""
    rng = np.random.default_rng(3)
    x, weight = (rng.integers(-3, 4, shape).astype(np.float32) for shape in ((70, 60), (130, 60)))
    residual = rng.integers(-9, 10, (70, 130)).astype(np.float32)
    assert np.array_equal(ops.matmul(x, weight, dtype, residual), matmul(x, weight, residual))


@pytest.mark.parametrize("rows", [1, 6, 7, 32, 65])
def test_matmul_feels_neither_threads_nor_neighbours(table, dtype, rows):
    rng = np.random.default_rng(rows)
    x, weight = normal(rng, rows, 193, dtype=dtype), normal(rng, 321, 193, dtype=dtype)
    residual = normal(rng, rows, 321, dtype="float32")
    whole = [_core.Ops(table, threads).matmul(x, weight, dtype, residual) for threads in (1, 2, 3)]
    assert np.array_equal(whole[0], whole[1])
    assert np.array_equal(whole[0], whole[2])
    for row in {0, rows // 2, rows - 1}:
        alone = _core.Ops(table, 2).matmul(x[row : row + 1], weight, dtype, residual[row : row + 1])
        assert np.array_equal(whole[0][row : row + 1], alone)
