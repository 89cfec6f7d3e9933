"""attention over slots: no mask but a limit on how far a span may look, and no sequence sees another."""

import numpy as np
import pytest
import torch

from llada_rt import _core
from tests.ops.precision import normal, to_numpy, to_torch
from tests.reference.attention import ragged_attention
from tests.tolerance import assert_accurate

RAGGED = [1, 127, 128, 129]


def plain(q: np.ndarray, ks: list[np.ndarray], vs: list[np.ndarray], spans, dtype: str) -> np.ndarray:
    out = np.zeros(q.shape, np.float32)
    for begin, end, visible, sequence in spans:
        heads_first = (to_torch(a, dtype).transpose(0, 1)[None] for a in (q[begin:end], ks[sequence], vs[sequence]))
        rows, k, v = heads_first  # (1, heads, length, head_dim)
        mixed = torch.nn.functional.scaled_dot_product_attention(
            rows, k[:, :, :visible], v[:, :, :visible], enable_gqa=True
        )
        out[begin:end] = to_numpy(mixed[0].transpose(0, 1))
    return out


def assert_attention(got: np.ndarray, q: np.ndarray, ks: list[np.ndarray], vs: list[np.ndarray], spans, dtype: str):
    """spans: with or without the number of a sequence. A mean over many keys is small beside its terms."""
    spans = [span if len(span) == 4 else (*span, 0) for span in spans]
    terms = ragged_attention(q, ks, [np.abs(v) for v in vs], spans).max(initial=0)
    want, simple = ragged_attention(q, ks, vs, spans), plain(q, ks, vs, spans, dtype)
    assert_accurate(got, want, simple, dtype, magnitude=float(terms))


def make(rng, rows: int, length: int, heads: int, kv_heads: int, head_dim: int, dtype: str, scale: float = 1.0):
    q = normal(rng, rows, heads, head_dim, dtype=dtype, scale=scale)
    return q, *(normal(rng, length, kv_heads, head_dim, dtype=dtype) for _ in range(2))


@pytest.mark.parametrize("head_dim", [8, 16, 24, 64, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (3, 1), (8, 2)])
def test_attention_heads(ops, dtype, heads, kv_heads, head_dim):
    q, k, v = make(np.random.default_rng(head_dim), 33, 71, heads, kv_heads, head_dim, dtype)
    spans = np.array([[0, 33, 71]], np.int32)
    got = ops.attention(q, k, v, spans, dtype)
    assert_attention(got, q, [k], [v], spans, dtype)


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1025])
@pytest.mark.parametrize("rows", [1, 6, 7])
def test_attention_lengths(ops, dtype, rows, length):
    q, k, v = make(np.random.default_rng(length), rows, length, 2, 1, 16, dtype)
    spans = np.array([[0, rows, length]], np.int32)
    got = ops.attention(q, k, v, spans, dtype)
    assert_attention(got, q, [k], [v], spans, dtype)


def test_attention_visible_limits(ops, dtype):
    """Each span of rows looks at its own part of the slot; what lies beyond must not matter."""
    q, k, v = make(np.random.default_rng(2), 40, 130, 4, 2, 24, dtype)
    spans = np.array([[0, 1, 1], [1, 8, 63], [8, 30, 64], [30, 33, 65], [33, 40, 130]], np.int32)
    got = ops.attention(q, k, v, spans, dtype)
    assert_attention(got, q, [k], [v], spans, dtype)
    k[65:], v[65:] = 1e4, -1e4
    assert np.array_equal(ops.attention(q, k, v, spans, dtype)[:33], got[:33])


@pytest.mark.parametrize("scale", [0.0, 30.0], ids=["uniform", "peaked"])
def test_attention_of_flat_and_peaked_scores(ops, dtype, scale):
    q, k, v = make(np.random.default_rng(3), 9, 200, 2, 2, 64, dtype, scale)
    spans = np.array([[0, 9, 200]], np.int32)
    got = ops.attention(q, k, v, spans, dtype)
    assert_attention(got, q, [k], [v], spans, dtype)


def test_ragged_attention(ops, dtype):
    rng = np.random.default_rng(4)
    parts = [make(rng, length, length, 6, 2, 16, dtype) for length in RAGGED]
    q, ks, vs = np.concatenate([p[0] for p in parts]), [p[1] for p in parts], [p[2] for p in parts]
    ends = np.cumsum(RAGGED)
    spans = np.array([(end - n, end, n, i) for i, (n, end) in enumerate(zip(RAGGED, ends, strict=True))], np.int32)
    got = ops.ragged_attention(q, ks, vs, spans, dtype)
    assert_attention(got, q, ks, vs, spans, dtype)
    for (begin, end, visible, _), (rows, k, v) in zip(spans, parts, strict=True):
        alone = ops.attention(rows, k, v, np.array([[0, end - begin, visible]], np.int32), dtype)
        assert np.array_equal(got[begin:end], alone)


def test_attention_feels_neither_threads_nor_neighbours(table, dtype):
    q, k, v = make(np.random.default_rng(5), 65, 129, 4, 2, 24, dtype)
    spans = np.array([[0, 65, 129]], np.int32)
    runs = [_core.Ops(table, threads).attention(q, k, v, spans, dtype) for threads in (1, 2, 3)]
    assert np.array_equal(runs[0], runs[1])
    assert np.array_equal(runs[0], runs[2])
    for row in (0, 31, 64):
        alone = _core.Ops(table, 2).attention(q[row : row + 1], k, v, np.array([[0, 1, 129]], np.int32), dtype)
        assert np.array_equal(runs[0][row : row + 1], alone)


def test_a_key_that_is_not_a_number_is_not_passed_over(ops, dtype):
    """Its rows turn into NaN, which the head reports; a span that does not see it is as it was."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((n, 2, 16), dtype=np.float32) for n in (8, 70, 70))
    spans = np.array([[0, 4, 70], [4, 8, 33]], np.int32)
    clean = ops.attention(q, k, v, spans, dtype)
    k[40] = np.nan
    spoiled = ops.attention(q, k, v, spans, dtype)
    assert np.isnan(spoiled[:4]).all()
    assert np.array_equal(spoiled[4:], clean[4:])
