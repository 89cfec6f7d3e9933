"""Each tile of the plain tier in the imitation: right on awkward sizes, and the same bits as every other tile."""

import numpy as np
import pytest

from llada_rt import _core
from tests import cuda_host
from tests.cuda.matmul_doors import OPERANDS, TILES, TILES_OF, call_of, finish_sums, rows_of, run_tile, weight_of
from tests.ops.precision import rounded
from tests.reference.matmul import matmul
from tests.reference.swiglu import swiglu
from tests.tolerance import assert_accurate

CASES = [(t, tile) for t in OPERANDS for tile in TILES_OF.get(t, TILES)]


def case(rng: np.random.Generator, compute_type: str, rows: int, outputs: int, inputs: int):
    x = rounded(rng.standard_normal((rows, inputs)), "bfloat16")
    weight = rounded(rng.standard_normal((outputs, inputs)), "bfloat16")
    of_rows, of_weight = OPERANDS[compute_type]
    return rows_of(x, of_rows), weight_of(weight, of_weight)


def check(got: np.ndarray, x, weight, want: np.ndarray | None = None) -> None:
    want = matmul(x.meant, weight.meant) if want is None else want
    plain = x.meant.astype(np.float32) @ weight.meant.astype(np.float32).T
    terms = (np.abs(x.meant) @ np.abs(weight.meant).T).max(initial=0)
    assert_accurate(got, want, plain if plain.shape == want.shape else want, "float32", magnitude=terms)


@pytest.mark.parametrize(("compute_type", "tile"), CASES)
@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 1, 1), (33, 65, 70), (129, 257, 24), (3, 40, 600)])
def test_tile(compute_type, tile, rows, outputs, inputs):
    """Past one tile in each direction, and past the stages that are under way at once."""
    x, weight = case(np.random.default_rng(rows), compute_type, rows, outputs, inputs)
    out = np.full((rows, outputs), np.nan, np.float32)
    run_tile(call_of(compute_type, x, weight, (rows, outputs, inputs), out, tile=tile))
    check(out, x, weight)


@pytest.mark.parametrize("compute_type", [t for t in OPERANDS if t != "float32"])
@pytest.mark.parametrize("inputs", [40, 520])
def test_tiles_agree_bit_for_bit(compute_type, inputs):
    """The tile is chosen by the number of rows, so a row alone meets another one than in a batch."""
    x, weight = case(np.random.default_rng(1), compute_type, 40, 48, inputs)
    results = []
    for tile in TILES_OF.get(compute_type, TILES):
        out = np.empty((40, 48), np.float32)
        run_tile(call_of(compute_type, x, weight, (40, 48, inputs), out, tile=tile))
        results.append(out)
    for result in results[1:]:
        assert np.array_equal(results[0], result)


@pytest.mark.parametrize("compute_type", OPERANDS)
def test_accumulates_onto_the_residual(compute_type):
    rng = np.random.default_rng(2)
    x, weight = case(rng, compute_type, 35, 66, 96)
    alone, out = np.empty((35, 66), np.float32), rng.standard_normal((35, 66)).astype(np.float32)
    residual = out.copy()
    run_tile(call_of(compute_type, x, weight, (35, 66, 96), alone))
    run_tile(call_of(compute_type, x, weight, (35, 66, 96), out, end="accumulate"))
    assert np.array_equal(out, residual + alone)


@pytest.mark.parametrize("compute_type", OPERANDS)
@pytest.mark.parametrize(("hidden", "cols"), [(1, 2), (7, 7), (8, 8), (33, 36), (70, 70)])
def test_swiglu(compute_type, hidden, cols):
    rng = np.random.default_rng(hidden)
    x, weight = case(rng, compute_type, 34, 2 * hidden, 64)
    out = np.full((34, cols), np.nan, np.float32)
    run_tile(call_of(compute_type, x, weight, (34, 2 * hidden, 64), out, end="swiglu"))
    gate_up = matmul(x.meant, weight.meant)
    want, plain = swiglu(gate_up), swiglu(gate_up.astype(np.float32)).astype(np.float32)
    terms = (np.abs(x.meant) @ np.abs(weight.meant).T).max() ** 2
    assert_accurate(out[:, :hidden], want, plain, "float32", magnitude=terms)
    assert np.all(out[:, hidden:] == 0)


@pytest.mark.parametrize("compute_type", OPERANDS)
def test_rows_by_index(compute_type):
    """The head gathers the rows it wants; -1 is a row of zeros and stays away from memory."""
    x, weight = case(np.random.default_rng(5), compute_type, 9, 33, 72)
    index = np.array([8, -1, 3, 3, 0], np.int32)
    out = np.empty((5, 33), np.float32)
    run_tile(call_of(compute_type, x, weight, (5, 33, 72), out, row_index=index))
    whole = np.empty((9, 33), np.float32)
    run_tile(call_of(compute_type, x, weight, (9, 33, 72), whole))
    wanted = index >= 0
    assert np.array_equal(out[wanted], whole[index[wanted]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("compute_type", ["float32", "bfloat16", "int8_bfloat16", "int4"])
def test_what_is_not_finite_stays_in_its_row(compute_type, bad):
    rng = np.random.default_rng(6)
    values = rounded(rng.standard_normal((6, 50)), "bfloat16")
    weight = weight_of(rounded(rng.standard_normal((9, 50)), "bfloat16"), OPERANDS[compute_type][1])
    clean, spoilt = np.empty((6, 9), np.float32), np.empty((6, 9), np.float32)
    run_tile(call_of(compute_type, rows_of(values, OPERANDS[compute_type][0]), weight, (6, 9, 50), clean))
    values[2, 49] = bad
    run_tile(call_of(compute_type, rows_of(values, OPERANDS[compute_type][0]), weight, (6, 9, 50), spoilt))
    others = np.arange(6) != 2
    assert np.array_equal(spoilt[others], clean[others])
    assert not np.isfinite(spoilt[2]).any()


@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(0, 8, 8), (1, 1, 1), (5, 65, 31), (33, 130, 272)])
def test_float8_product(rows, outputs, inputs):
    """The op of the page, from float32 values: no CPU table has float8."""
    cuda_host.add_table()
    rng = np.random.default_rng(rows)
    x = rounded(rng.standard_normal((rows, inputs)) * np.exp2(rng.integers(-9, 9, (rows, 1))), "bfloat16")
    weight = rounded(rng.standard_normal((outputs, inputs)), "bfloat16")
    got = _core.Ops("cuda", 2).matmul(x, weight, "float8")
    check(got, rows_of(x, "float8"), weight_of(weight, "float8"))


def test_float8_rows_of_nothing_and_of_infinities():
    """A row of zeros has scale 0; one that is not finite spoils itself and nothing else."""
    cuda_host.add_table()
    rng = np.random.default_rng(8)
    x, weight = (rounded(rng.standard_normal(shape), "bfloat16") for shape in ((4, 40), (24, 40)))
    x[1], x[2, 7] = 0, np.inf
    got = _core.Ops("cuda", 1).matmul(x, weight, "float8")
    assert np.all(got[1] == 0)
    assert np.isnan(got[2]).all()
    others = x[[0, 3]]
    assert np.array_equal(got[[0, 3]], _core.Ops("cuda", 1).matmul(others, weight, "float8"))


@pytest.mark.parametrize("compute_type", ["bfloat16", "float8"])
@pytest.mark.parametrize("end", ["store", "accumulate", "swiglu"])
def test_the_pass_after_a_product(compute_type, end):
    """Sums of another tier come out as the plain tier's would: scales, residual and SwiGLU are the same arithmetic."""
    rng = np.random.default_rng(7)
    shape = (33, 48, 64)
    x, weight = case(rng, compute_type, *shape)
    scaled = compute_type == "float8"
    of_rows = x.stored[:, -4:].copy().view(np.float32) if scaled else np.ones((33, 1), np.float32)
    of_outputs = weight.scales if scaled else np.ones((48, 1), np.float32)
    sums = ((x.meant / of_rows) @ (weight.meant / of_outputs).T).astype(np.float32)
    if end == "swiglu":  # eight gates, eight ups
        sums = sums.reshape(33, 2, 3, 8).transpose(0, 2, 1, 3).reshape(33, 48)
    before = rng.standard_normal((33, 24 if end == "swiglu" else 48)).astype(np.float32)
    got, want = before.copy(), before.copy()
    finish_sums(call_of(compute_type, x, weight, shape, got, end=end), np.ascontiguousarray(sums))
    run_tile(call_of(compute_type, x, weight, shape, want, end=end))
    terms = (np.abs(x.meant) @ np.abs(weight.meant).T).max() ** (2 if end == "swiglu" else 1)
    assert_accurate(got, want.astype(np.float64), want, "float32", magnitude=terms)
