"""rms_norm: the residual stream is float32; the result is rounded to the compute type before the weight is applied."""

import numpy as np
import pytest

from llada_rt import _core
from tests.ops.precision import TORCH, normal, to_numpy, to_torch
from tests.reference.rms_norm import rms_norm
from tests.tolerance import assert_accurate


def plain(x: np.ndarray, weight: np.ndarray, eps: float, dtype: str) -> np.ndarray:
    wide = to_torch(x, "float32")
    scaled = wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    return to_numpy(scaled.to(TORCH[dtype]) * to_torch(weight, dtype))


@pytest.mark.parametrize("d", [1, 8, 15, 16, 17, 63, 64, 65, 1024, 1025])
@pytest.mark.parametrize("rows", [0, 1, 6, 7, 65])
def test_rms_norm(ops, dtype, rows, d):
    rng = np.random.default_rng(rows * 7 + d)
    x, weight = normal(rng, rows, d, dtype="float32"), normal(rng, d, dtype=dtype)
    got = ops.rms_norm(x, weight, 1e-5, dtype)
    assert_accurate(got, rms_norm(x, weight, 1e-5), plain(x, weight, 1e-5, dtype), dtype)


@pytest.mark.parametrize("scale", [0.0, 1e-18, 1e15])
def test_rms_norm_of_tiny_and_huge_rows(ops, dtype, scale):
    """eps keeps a zero row finite, and squares must not overflow where the published model's do not."""
    rng = np.random.default_rng(0)
    x, weight = normal(rng, 3, 40, dtype="float32", scale=scale), normal(rng, 40, dtype=dtype)
    got = ops.rms_norm(x, weight, 1e-6, dtype)
    assert_accurate(got, rms_norm(x, weight, 1e-6), plain(x, weight, 1e-6, dtype), dtype)


def test_rms_norm_feels_neither_threads_nor_neighbours(table, dtype):
    rng = np.random.default_rng(1)
    x, weight = normal(rng, 37, 129, dtype="float32"), normal(rng, 129, dtype=dtype)
    whole = [_core.Ops(table, threads).rms_norm(x, weight, 1e-5, dtype) for threads in (1, 2, 3)]
    alone = _core.Ops(table, 2).rms_norm(x[20:21], weight, 1e-5, dtype)
    assert np.array_equal(whole[0], whole[1])
    assert np.array_equal(whole[0], whole[2])
    assert np.array_equal(whole[0][20:21], alone)
