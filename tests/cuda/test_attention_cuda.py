"""Attention of the CUDA backend where it differs from that of the CPU: chunks of keys, joined by the block that saw
them or by the last one of several; tiles of 32, 64 and 128 lines; heads that are filled up. tests/ops/test_attention.py
runs over it too."""

import numpy as np
import pytest

from llada_rt import _core
from llada_rt.errors import LladaRtError
from tests import cuda_host
from tests.ops.precision import normal
from tests.ops.test_attention import RAGGED, assert_attention, make, plain
from tests.reference.attention import attention
from tests.tolerance import assert_accurate


@pytest.fixture(params=["float32", "bfloat16"])
def dtype(request) -> str:
    return request.param


@pytest.fixture
def cuda() -> "_core.Ops":
    cuda_host.add_table()
    return _core.Ops("cuda", 1)


@pytest.mark.parametrize("head_dim", [8, 64, 80, 128, 136, 256])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 1), (8, 1)])
def test_chunks_of_keys(cuda, dtype, heads, kv_heads, head_dim):
    """Three chunks, the last one of 5 keys."""
    q, k, v = make(np.random.default_rng(head_dim), 5, 261, heads, kv_heads, head_dim, dtype)
    spans = np.array([[0, 5, 261]], np.int32)
    got = cuda.attention(q, k, v, spans, dtype)
    assert_attention(got, q, [k], [v], spans, dtype)


@pytest.mark.parametrize("visible", [1, 127, 128, 129, 256, 960, 1000])
def test_long_slots(cuda, dtype, visible):
    q, k, v = make(np.random.default_rng(visible), 3, 1000, 2, 2, 64, dtype)
    spans = np.array([[0, 3, visible]], np.int32)
    got = cuda.attention(q, k, v, spans, dtype)
    assert_attention(got, q, [k], [v], spans, dtype)


@pytest.mark.parametrize("length", [64, 128, 320])
def test_a_slot_that_is_full(cuda, dtype, length):
    q, k, v = make(np.random.default_rng(length), 2, length, 2, 1, 64, dtype)
    spans = np.array([[0, 2, length]], np.int32)
    got = cuda.attention(q, k, v, spans, dtype)
    assert_attention(got, q, [k], [v], spans, dtype)


@pytest.mark.parametrize("length", [100, 128, 300])
def test_a_batch_leaves_a_request_as_it_is(cuda, dtype, length):
    """Alone the chunks of a request are joined by the last of several blocks, in a large batch by the block that saw
    them; beside a long span its tiles have more lines. None of it may show."""
    rng = np.random.default_rng(length)
    heads, kv_heads, head_dim = 8, 4, 16
    rows = [3, *[1] * 20, 70]
    parts = [make(rng, n, length, heads, kv_heads, head_dim, dtype) for n in rows]
    ends = np.cumsum(rows)
    spans = np.array([(end - n, end, length, i) for i, (n, end) in enumerate(zip(rows, ends, strict=True))], np.int32)
    q, ks, vs = np.concatenate([p[0] for p in parts]), [p[1] for p in parts], [p[2] for p in parts]
    together = cuda.ragged_attention(q, ks, vs, spans, dtype)
    assert_attention(together, q, ks, vs, spans, dtype)
    for i in (0, 7, len(rows) - 1):
        begin, end, visible, _ = spans[i]
        for row in (begin, end - 1):
            alone = cuda.attention(q[row : row + 1], ks[i], vs[i], np.array([[0, 1, visible]], np.int32), dtype)
            assert np.array_equal(together[row : row + 1], alone)


@pytest.mark.parametrize("heads", [1, 4, 8])
def test_ragged_with_one_kv_head(cuda, dtype, heads):
    rng = np.random.default_rng(heads)
    parts = [make(rng, 2, length, heads, 1, 80, dtype) for length in RAGGED]
    q, ks, vs = np.concatenate([p[0] for p in parts]), [p[1] for p in parts], [p[2] for p in parts]
    spans = np.array([(2 * i, 2 * i + 2, n, i) for i, n in enumerate(RAGGED)], np.int32)
    got = cuda.ragged_attention(q, ks, vs, spans, dtype)
    assert_attention(got, q, ks, vs, spans, dtype)


@pytest.mark.parametrize("group", [33, 130])
def test_more_query_heads_than_a_tile_has_lines(cuda, dtype, group):
    q, k, v = make(np.random.default_rng(group), 2, 70, group, 1, 8, dtype)
    spans = np.array([[0, 2, 70]], np.int32)
    got = cuda.attention(q, k, v, spans, dtype)
    assert_attention(got, q, [k], [v], spans, dtype)


@pytest.mark.parametrize("rows", [1, 40], ids=["split", "whole"])
@pytest.mark.parametrize("key", [0, 200, 299])
def test_a_broken_key_in_any_chunk_shows(cuda, dtype, key, rows):
    rng = np.random.default_rng(key)
    heads = 2 if rows == 1 else 40
    q, k, v = make(rng, rows, 300, heads, heads, 8, dtype)
    spans = np.array([[0, rows, 300]], np.int32)
    k[key, :, 3] = np.nan
    assert np.isnan(cuda.attention(q, k, v, spans, dtype)).all()


def test_a_broken_value_shows_in_its_column(cuda, dtype):
    q, k, v = make(np.random.default_rng(1), 3, 300, 2, 2, 16, dtype)
    spans = np.array([[0, 3, 300]], np.int32)
    clean = cuda.attention(q, k, v, spans, dtype)
    v[150, 1, 5] = np.nan
    broken = cuda.attention(q, k, v, spans, dtype)
    expected = np.zeros(broken.shape, bool)
    expected[:, 1, 5] = True
    assert np.array_equal(np.isnan(broken), expected)
    assert np.array_equal(broken[~expected], clean[~expected])


def test_a_chunk_without_weight(cuda, dtype):
    """All of its scores overflow to -inf: it is as if its keys were not there."""
    q, k, v = make(np.random.default_rng(4), 3, 300, 2, 2, 16, dtype)
    spans = np.array([[0, 3, 300]], np.int32)
    q[..., 0], k[..., 0], k[:128, :, 0] = 1e20, 0, -1e20
    want = attention(q, k[128:], v[128:], np.array([[0, 3, 172]], np.int32))
    assert_accurate(cuda.attention(q, k, v, spans, dtype), want, plain(q, [k], [v], [(0, 3, 300, 0)], dtype), dtype)


def test_what_is_beyond_the_limit_may_be_anything(cuda, dtype):
    q, k, v = make(np.random.default_rng(2), 4, 200, 2, 1, 64, dtype)
    spans = np.array([[0, 4, 131]], np.int32)
    clean = cuda.attention(q, k, v, spans, dtype)
    k[131:], v[131:] = np.nan, np.inf
    assert np.array_equal(cuda.attention(q, k, v, spans, dtype), clean)


@pytest.mark.parametrize(
    ("rows", "length"), [(3, 140), (20, 100), (50, 100), (70, 100)], ids=["joined", "32 lines", "64 lines", "128 lines"]
)
def test_rows_of_float32_for_a_quantised_product(cuda, rows, length):
    """T is bfloat16, what comes out is not yet rounded."""
    q, k, v = make(np.random.default_rng(3), rows, length, 2, 2, 24, "bfloat16")
    spans = np.array([[0, rows, length]], np.int32)
    want = attention(q, k, v, spans)
    got = cuda.attention(q, k, v, spans, "bfloat16", out_dtype="float32")
    assert_accurate(got, want, plain(q, [k], [v], [(0, rows, length, 0)], "bfloat16"), "bfloat16")
    rounded = cuda.attention(q, k, v, spans, "bfloat16")
    assert not np.array_equal(got, rounded)
    assert_accurate(rounded, got, got, "bfloat16")


def test_heads_that_are_too_wide_are_refused(cuda):
    q = normal(np.random.default_rng(0), 1, 1, 264, dtype="float32")
    with pytest.raises(LladaRtError, match="head_dim up to 256, got 264"):
        cuda.attention(q, q, q, np.array([[0, 1, 1]], np.int32), "bfloat16")
