"""embed: rows of a table, exactly."""

import numpy as np
import pytest

from tests.ops.precision import normal
from tests.reference.embed import embed


@pytest.mark.parametrize("d", [1, 8, 31, 32, 33, 1025])
@pytest.mark.parametrize("rows", [0, 1, 7, 65])
def test_embed(ops, dtype, rows, d):
    rng = np.random.default_rng(rows + d)
    weight = normal(rng, 19, d, dtype=dtype)
    tokens = rng.integers(0, 19, rows).astype(np.int32)
    assert np.array_equal(ops.embed(tokens, weight, dtype), embed(tokens, weight))
