"""Rows that the CUDA backend alone has: float8 with a scale."""

import numpy as np
import pytest
import torch

from llada_rt import _core
from tests import cuda_host
from tests.ops.precision import normal
from tests.reference.rms_norm import rms_norm
from tests.tolerance import assert_accurate

LARGEST = np.float32(448)


@pytest.fixture
def cuda() -> "_core.Ops":
    cuda_host.add_table()
    return _core.Ops("cuda", 1)


def quantize_float8(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x: (n, k) float32. Returns values of e4m3 (n, k), and scales (n): max |x| / 448, 0 below 2^-100."""
    largest = np.abs(x).max(-1, initial=0)
    usable = largest >= np.float32(2.0**-100)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(usable, LARGEST / largest, 0).astype(np.float32)
    scaled = np.clip(x * inverse[:, None], -LARGEST, LARGEST)
    return torch.from_numpy(scaled).to(torch.float8_e4m3fn).float().numpy(), np.where(usable, largest / LARGEST, 0)


def spread(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) * np.exp(rng.standard_normal((shape[0], 1)) * 3)).astype(np.float32)


@pytest.mark.parametrize("cols", [1, 3, 15, 16, 17, 64, 1025, 4096])
def test_float8_rows(cuda, cols):
    x = spread(np.random.default_rng(cols), 9, cols)
    x[3], x[5] = 0, 1e-38
    x[6] *= np.exp2(-np.arange(cols) % 40)  # down to what rounds to zero
    x[7] = np.resize([448, 17, 19, 0.0146484375, -0.0009765625, 2.0**-10 * 3], cols)  # ties
    x[7, 0] = 448
    values, scales = cuda.quantize(x, "float8")
    want, want_scales = quantize_float8(x)
    assert np.array_equal(values, want)
    assert np.array_equal(scales, want_scales.astype(np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 20, 32])
def test_float8_rows_that_are_not_finite_say_so(cuda, bad, at):
    x = np.ones((3, 33), np.float32)
    x[1, at] = bad
    assert np.array_equal(np.isnan(cuda.quantize(x, "float8")[1]), [False, True, False])


@pytest.mark.parametrize("d", [1, 8, 17, 64, 1025])
def test_rms_norm_to_float8(cuda, d):
    """Within half a step of the exact norm: a sixteenth of the value, or of the smallest normal number."""
    rng = np.random.default_rng(d)
    x, weight = spread(rng, 7, d), normal(rng, d, dtype="bfloat16")
    values, scales = cuda.rms_norm_quantized(x, weight, 1e-5, "float8")
    want = rms_norm(x, weight, 1e-5)
    want_scales = np.abs(want).max(-1) / 448
    assert_accurate(scales, want_scales, want_scales, "float32")
    smallest = 2.0**-6 * scales[:, None]
    assert (
        np.abs(values * scales[:, None].astype(np.float64) - want) <= np.maximum(np.abs(want), smallest) / 15.9
    ).all()
