"""Rows of the embedding table."""

import numpy as np


def embed(tokens: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """tokens: (n,) int; weight: (vocab, d). Returns (n, d)."""
    return np.asarray(weight, np.float64)[tokens]
