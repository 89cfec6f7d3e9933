"""Matrix product with a weight stored one row per output, as in the checkpoints."""

import numpy as np


def matmul(x: np.ndarray, weight: np.ndarray, residual: np.ndarray | None = None) -> np.ndarray:
    """x: (n, k); weight: (m, k); residual: (n, m). Returns x @ weight.T + residual, (n, m)."""
    product = np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T
    return product if residual is None else product + residual
