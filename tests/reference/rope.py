"""Rotary position embedding, half-split layout (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin) as in LLaMA and LLaDA."""

import numpy as np


def rope(x: np.ndarray, positions: np.ndarray, theta: float, rotary_dim: int | None = None) -> np.ndarray:
    """x: (n, heads, head_dim); positions: (n,). Returns the rotated rows; of each head the first `rotary_dim`
    dimensions are rotated, by default all.
    """
    x = np.asarray(x, np.float64)
    if rotary_dim is not None:
        return np.concatenate([rope(x[..., :rotary_dim], positions, theta), x[..., rotary_dim:]], -1)
    half = x.shape[-1] // 2
    angle = np.asarray(positions, np.float64)[:, None, None] * theta ** (-np.arange(half) / half)  # (n, 1, half)
    first, second = x[..., :half], x[..., half:]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def rope_kv_write(q, k, v, positions, length: int, theta: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotates q and k, writes k and v at `positions` of an empty slot. Returns q, K and V (length, heads, head_dim)."""
    slot_k, slot_v = (np.zeros((length, *a.shape[1:])) for a in (k, v))
    slot_k[positions], slot_v[positions] = rope(k, positions, theta), v
    return rope(q, positions, theta), slot_k, slot_v
