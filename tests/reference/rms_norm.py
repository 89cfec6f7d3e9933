"""RMSNorm (Zhang and Sennrich, 2019)."""

import numpy as np


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """x: (n, d); weight: (d,). Returns x / sqrt(mean(x^2) + eps) * weight, (n, d)."""
    x = np.asarray(x, np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight
