"""Quantised weights, rows and products. What is integer is equal to the numpy twin on every table, bit for bit."""

import numpy as np
import pytest

from llada_rt import _core
from llada_rt.errors import LladaRtError
from tests.ops.precision import normal, rounded
from tests.reference.candidates import candidates
from tests.reference.matmul import matmul
from tests.reference.quantization import dequantize, matmul_int8, pack_int4, quantize_rows, quantize_weight
from tests.reference.rms_norm import rms_norm
from tests.reference.swiglu import swiglu
from tests.tolerance import assert_accurate

WEIGHT_ONLY = ["int8_bfloat16", "int4"]
# (rows, outputs, inputs): around the packs, groups, panels and blocks.
SHAPES = [
    (0, 8, 8),
    (1, 1, 1),
    (2, 63, 3),
    (5, 65, 31),
    (6, 64, 32),
    (7, 129, 33),
    (31, 127, 63),
    (32, 128, 64),
    (33, 31, 65),
    (64, 33, 127),
    (95, 32, 128),
    (97, 130, 129),
    (4, 70, 2049),
]


def spread(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Rows of very different size: each has a scale of its own."""
    return (rng.standard_normal(shape) * np.exp(rng.standard_normal((shape[0], 1)) * 3)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize(("num_out", "num_in"), [(1, 1), (3, 31), (2, 32), (5, 33), (64, 95), (7, 256)])
def test_weights_are_quantised_by_the_rule(dtype, num_out, num_in):
    rng = np.random.default_rng(num_in)
    for weight in (
        spread(rng, num_out, num_in),
        rng.integers(-254, 255, (num_out, num_in)) / np.float32(2),  # ties
        np.zeros((num_out, num_in), np.float32),
        (rng.standard_normal((num_out, num_in)) * 1e-43).astype(np.float32),  # subnormal
        (rng.standard_normal((num_out, num_in)) * 1e37).astype(np.float32),
    ):
        q, scales = quantize_weight(weight, dtype)
        got_values, got_scales = _core.Ops("", 2).quantize_weight(weight, dtype)
        assert np.array_equal(got_values, q.view(np.uint8) if dtype == "int8" else pack_int4(q))
        assert np.array_equal(got_scales, scales)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_weights_that_are_not_finite_are_refused(dtype, bad):
    weight = np.ones((3, 40), np.float32)
    weight[1, 37] = bad
    with pytest.raises(LladaRtError, match="finite"):
        _core.Ops("", 2).quantize_weight(weight, dtype)


@pytest.mark.parametrize("cols", [1, 3, 15, 16, 17, 31, 64, 65, 1025])
def test_rows(ops, cols):
    rng = np.random.default_rng(cols)
    x = spread(rng, 9, cols)
    x[3], x[5] = 0, 1e-38
    x[7] = rng.integers(-254, 255, cols) / 2  # ties
    x[7, 0] = 127
    values, scales = ops.quantize(x)
    want, want_scales = quantize_rows(x)
    assert np.array_equal(values, want)
    assert np.array_equal(scales, want_scales)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 20, 32])
def test_rows_that_are_not_finite_say_so(ops, bad, at):
    x = np.ones((3, 33), np.float32)
    x[1, at] = bad
    assert np.array_equal(np.isnan(ops.quantize(x)[1]), [False, True, False])
    product = ops.matmul(x, np.zeros((5, 33), np.float32), "int8")
    assert np.array_equal(np.isnan(product).all(1), [False, True, False])


@pytest.mark.parametrize("d", [1, 8, 17, 64, 1025])
def test_rms_norm_quantises(ops, d):
    """Within one step of the exact norm, and of the scale that the exact norm has."""
    rng = np.random.default_rng(d)
    x, weight = spread(rng, 7, d), normal(rng, d, dtype="bfloat16")
    values, scales = ops.rms_norm_quantized(x, weight, 1e-5)
    want = rms_norm(x, weight, 1e-5)
    _, want_scales = quantize_rows(want)
    assert_accurate(scales, want_scales, want_scales, "float32")
    assert np.abs(values * scales[:, None].astype(np.float64) - want).max() <= 0.51 * scales.max()


@pytest.mark.parametrize(("rows", "outputs", "inputs"), SHAPES)
def test_int8_product_is_exact(ops, rows, outputs, inputs):
    rng = np.random.default_rng(rows + outputs + inputs)
    x, weight = spread(rng, rows, inputs), spread(rng, outputs, inputs)
    want = matmul_int8(x, weight)
    assert np.array_equal(ops.matmul(x, weight, "int8"), want)
    residual = normal(rng, rows, outputs, dtype="float32")
    terms = np.abs(want).max(initial=0) + np.abs(residual).max(initial=0)
    exact = want.astype(np.float64) + residual
    assert_accurate(ops.matmul(x, weight, "int8", residual), exact, want + residual, "float32", magnitude=terms)


def test_int8_product_of_extremes(ops):
    """The largest sums that there are, of either sign: no step may saturate."""
    signs = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]], np.float32)
    x = np.repeat(signs, 3000, axis=1) * 127
    assert np.array_equal(ops.matmul(x, x, "int8"), x @ x.T)


def weight_of(weight: np.ndarray, compute_type: str) -> np.ndarray:
    """What a weight-only type multiplies, float64."""
    q, scales = quantize_weight(weight, compute_type.removesuffix("_bfloat16"))
    if compute_type == "int8_bfloat16":
        return q.astype(np.float64) * scales
    return rounded(dequantize(q, scales), "bfloat16").astype(np.float64)


@pytest.mark.parametrize("compute_type", WEIGHT_ONLY)
@pytest.mark.parametrize(("rows", "outputs", "inputs"), SHAPES)
def test_weight_only_product(ops, compute_type, rows, outputs, inputs):
    rng = np.random.default_rng(rows + outputs + inputs)
    x, weight = normal(rng, rows, inputs, dtype="bfloat16"), normal(rng, outputs, inputs, dtype="float32")
    meant = weight_of(weight, compute_type)
    terms = (np.abs(x) @ np.abs(meant).T).max(initial=0)
    plain = x @ meant.astype(np.float32).T
    assert_accurate(ops.matmul(x, weight, compute_type), matmul(x, meant), plain, "float32", magnitude=terms)


@pytest.mark.parametrize("compute_type", ["int8", *WEIGHT_ONLY])
def test_quantised_swiglu(ops, compute_type):
    rng = np.random.default_rng(4)
    x, weight = normal(rng, 33, 72, dtype="bfloat16"), normal(rng, 2 * 65, 72, dtype="float32", scale=0.2)
    product = matmul_int8(x, weight) if compute_type == "int8" else matmul(x, weight_of(weight, compute_type))
    plain = swiglu(product.astype(np.float32))
    terms = (np.abs(x) @ np.abs(weight).T).max() ** 2
    got = ops.matmul_swiglu(x, weight, compute_type, "float32")
    assert_accurate(got, swiglu(product.astype(np.float64)), plain, "float32", magnitude=terms)


@pytest.mark.parametrize("compute_type", ["int8", *WEIGHT_ONLY])
def test_quantised_candidates(ops, compute_type):
    rng = np.random.default_rng(5)
    hidden, head = normal(rng, 11, 72, dtype="bfloat16"), normal(rng, 700, 72, dtype="float32", scale=0.5)
    logits = matmul_int8(hidden, head) if compute_type == "int8" else matmul(hidden, weight_of(head, compute_type))
    positions = np.arange(11, dtype=np.int32)
    want = candidates(logits.astype(np.float64), positions)
    plain = candidates(logits.astype(np.float32), positions)
    got = ops.candidates(hidden, head, compute_type, positions=positions)
    assert np.array_equal(got["token"], want.token)
    for name in ("confidence", "entropy", "margin"):
        terms = float(np.abs(hidden @ head.T).max())
        assert_accurate(got[name], getattr(want, name), getattr(plain, name), "float32", magnitude=terms)


@pytest.mark.parametrize("compute_type", ["int8", *WEIGHT_ONLY])
@pytest.mark.parametrize("rows", [1, 6, 7, 32, 101])
def test_products_feel_neither_threads_nor_neighbours(table, compute_type, rows):
    rng = np.random.default_rng(rows)
    x, weight = rounded(spread(rng, rows, 193), "bfloat16"), spread(rng, 321, 193)
    residual = normal(rng, rows, 321, dtype="float32")
    whole = [_core.Ops(table, threads).matmul(x, weight, compute_type, residual) for threads in (1, 2, 3)]
    assert np.array_equal(whole[0], whole[1])
    assert np.array_equal(whole[0], whole[2])
    for row in {0, rows // 2, rows - 1}:
        alone = _core.Ops(table, 2).matmul(x[row : row + 1], weight, compute_type, residual[row : row + 1])
        assert np.array_equal(whole[0][row : row + 1], alone)
