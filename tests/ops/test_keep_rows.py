"""keep_rows: rows move up within a matrix, exactly."""

import numpy as np
import pytest

from tests.ops.precision import normal


@pytest.mark.parametrize("cols", [1, 7, 64, 4096])
@pytest.mark.parametrize("rows", [[], [0], [3], [0, 1, 2], [0, 2, 5, 6, 10, 11, 12, 13, 14, 16], list(range(2, 19))])
def test_rows_move_up(ops, rows, cols):
    x = normal(np.random.default_rng(cols), 19, cols, dtype="float32")
    got = ops.keep_rows(x, np.array(rows, np.int32))
    assert np.array_equal(got[: len(rows)], x[rows])
    assert np.array_equal(got[len(rows) :], x[len(rows) :])


def test_rows_that_fill_a_bucket_stay_behind(ops):
    """The last of the kept rows are any that there are, as long as none is read after it was written."""
    x = normal(np.random.default_rng(1), 40, 33, dtype="float32")
    rows = np.array([5, 9, 30, 39, *range(4, 32)], np.int32)
    want = x.copy()
    for i, row in enumerate(rows):
        want[i] = want[row]
    assert np.array_equal(ops.keep_rows(x, rows), want)
