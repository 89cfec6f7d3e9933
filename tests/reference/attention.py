"""Softmax attention of rows over the first `visible` positions of a slot; query heads share key heads in groups."""

import numpy as np


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """q: (n, heads, head_dim); k, v: (length, kv heads, head_dim); spans: (m, 3) of (row_begin, row_end, visible)."""
    return ragged_attention(q, [k], [v], [(*span, 0) for span in spans])


def ragged_attention(q: np.ndarray, ks: list[np.ndarray], vs: list[np.ndarray], spans: np.ndarray) -> np.ndarray:
    """As above over several sequences; spans: (m, 4) of (row_begin, row_end, visible, sequence)."""
    q, out = np.asarray(q, np.float64), np.zeros(q.shape)
    group = q.shape[1] // ks[0].shape[1]
    for begin, end, visible, sequence in spans:
        k, v = (np.repeat(np.asarray(a[sequence][:visible], np.float64), group, 1) for a in (ks, vs))
        scores = q[begin:end].transpose(1, 0, 2) @ k.transpose(1, 2, 0) / np.sqrt(q.shape[-1])  # (heads, rows, visible)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        out[begin:end] = (p / p.sum(-1, keepdims=True) @ v.transpose(1, 0, 2)).transpose(1, 0, 2)
    return out
