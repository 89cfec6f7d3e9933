"""rope and the K/V write: half-split rotation in float32, rounded to the compute type, written at given positions."""

import numpy as np
import pytest
import torch

from llada_rt import _core
from tests.ops.precision import TORCH, normal, to_numpy, to_torch
from tests.reference.rope import rope, rope_kv_write
from tests.tolerance import assert_accurate


def plain(x: np.ndarray, positions: np.ndarray, theta: float, dtype: str) -> np.ndarray:
    """As published: angles and rotation in float32."""
    half = x.shape[-1] // 2
    frequency = 1.0 / theta ** (torch.arange(0, 2 * half, 2).float() / (2 * half))
    angle = torch.from_numpy(positions).float()[:, None, None] * frequency
    first, second = to_torch(x, "float32").split(half, -1)
    cos, sin = angle.cos(), angle.sin()
    return to_numpy(torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(TORCH[dtype]))


@pytest.mark.parametrize("theta", [1e4, 5e5])
@pytest.mark.parametrize("head_dim", [8, 16, 24, 64, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (2, 2), (6, 2), (4, 1)])
def test_rope_kv_write(ops, dtype, heads, kv_heads, head_dim, theta):
    rng = np.random.default_rng(heads * head_dim)
    rows, length = 19, 133
    q = normal(rng, rows, heads, head_dim, dtype="float32")
    k, v = (normal(rng, rows, kv_heads, head_dim, dtype="float32") for _ in range(2))
    positions = np.sort(rng.choice(length, rows, replace=False)).astype(np.int32)
    got_q, got_k, got_v = ops.rope_kv_write(q, k, v, positions, length, theta, dtype)
    want_q, want_k, want_v = rope_kv_write(q, k, v, positions, length, theta)
    assert_accurate(got_q, want_q, plain(q, positions, theta, dtype), dtype)
    assert_accurate(got_k[positions], want_k[positions], plain(k, positions, theta, dtype), dtype)
    assert_accurate(got_v, want_v, want_v, dtype)
    untouched = np.setdiff1d(np.arange(length), positions)
    assert not got_k[untouched].any()
    assert not got_v[untouched].any()


@pytest.mark.parametrize("count", [1, 16, 19, 48])
def test_a_row_may_lie_elsewhere_than_at_its_position(ops, dtype, count):
    """The angles are those of the positions, the places those of the slot."""
    rng = np.random.default_rng(count)
    q, k, v = (normal(rng, count, 2, 16, dtype="float32") for _ in range(3))
    places = np.arange(16, 16 + count, dtype=np.int32)
    positions = places.copy()
    positions[-1] = 1000
    got_q, got_k, got_v = ops.rope_kv_write(q, k, v, positions, 80, 1e4, dtype, places)
    assert_accurate(got_q, rope(q, positions, 1e4), plain(q, positions, 1e4, dtype), dtype)
    assert_accurate(got_k[places], rope(k, positions, 1e4), plain(k, positions, 1e4, dtype), dtype)
    assert_accurate(got_v[places], v, v, dtype)
    for slot in (got_k, got_v):
        assert not np.delete(slot, places, axis=0).any()


@pytest.mark.parametrize("length", [1, 15, 16, 17, 127, 128, 129])
def test_rope_writes_every_position_of_a_slot(ops, dtype, length):
    rng = np.random.default_rng(length)
    q, k, v = (normal(rng, length, 2, 16, dtype=dtype) for _ in range(3))
    positions = np.arange(length, dtype=np.int32)
    got_q, got_k, got_v = ops.rope_kv_write(q, k, v, positions, length, 1e4, dtype)
    assert np.array_equal(got_v, v)
    assert_accurate(got_q, rope(q, positions, 1e4), plain(q, positions, 1e4, dtype), dtype)
    assert_accurate(got_k, rope(k, positions, 1e4), plain(k, positions, 1e4, dtype), dtype)


def test_rope_at_far_positions(ops):
    """Float32 angles lose digits far out; they must lose no more than the published model's."""
    rng = np.random.default_rng(5)
    q = normal(rng, 3, 1, 64, dtype="float32")
    positions = np.array([4095, 8190, 8191], np.int32)
    got, *_ = ops.rope_kv_write(q, q, q, positions, 8192, 5e5, "float32")
    assert_accurate(got, rope(q, positions, 5e5), plain(q, positions, 5e5, "float32"), "float32")


def test_rope_feels_neither_threads_nor_neighbours(table, dtype):
    rng = np.random.default_rng(6)
    q, k, v = (normal(rng, 65, 4, 24, dtype=dtype) for _ in range(3))
    positions = np.arange(65, dtype=np.int32)
    runs = [_core.Ops(table, t).rope_kv_write(q, k, v, positions, 65, 1e4, dtype) for t in (1, 2, 3)]
    for other in runs[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(runs[0], other, strict=True))
    alone = _core.Ops(table, 2).rope_kv_write(q[40:41], k[40:41], v[40:41], positions[40:41], 65, 1e4, dtype)
    assert np.array_equal(runs[0][0][40:41], alone[0])
    assert np.array_equal(runs[0][1][40], alone[1][40])
