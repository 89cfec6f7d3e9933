"""Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and the runtime's draws.

A draw depends on (seed, step, position, token, stream) alone, so a request's noise does not depend on its neighbours.
"""

import numpy as np

GUMBEL_STREAM = 0  # noise on the logits
CONFIDENCE_STREAM = 1  # the `random` score
_LOW = np.uint64(0xFFFFFFFF)


def philox4x32(counter: tuple, key: tuple[int, int]) -> np.ndarray:
    """counter: four broadcastable uint32 arrays; key: two words. Returns uint32 (..., 4)."""
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) for word in np.broadcast_arrays(*counter))
    k0, k1 = key
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ np.uint64(k0), p1 & _LOW, (p0 >> 32) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], -1).astype(np.uint32)


def open_unit(bits: np.ndarray) -> np.ndarray:
    """53 bits (uint64) to float64 in (0, 1); the half of the largest value would round it up to 1."""
    return np.minimum((bits + 0.5) * 2.0**-53, 1 - 2.0**-53)


def uniform(seed: int, *, step: int, positions: np.ndarray, tokens: np.ndarray, stream: int) -> np.ndarray:
    """Float64 in (0, 1), shape (len(positions), len(tokens)), from the upper 53 of 64 bits."""
    words = philox4x32(
        (np.asarray(tokens)[None, :], np.asarray(positions)[:, None], step, stream), (seed & 0xFFFFFFFF, seed >> 32)
    ).astype(np.uint64)
    return open_unit((words[..., 0] << np.uint64(32) | words[..., 1]) >> np.uint64(11))
