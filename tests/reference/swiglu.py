"""SwiGLU (Shazeer, 2020)."""

import numpy as np


def swiglu(gate_up: np.ndarray) -> np.ndarray:
    """gate_up: (n, 2f), gate first. Returns silu(gate) * up, (n, f)."""
    gate, up = np.split(np.asarray(gate_up, np.float64), 2, -1)
    return gate / (1 + np.exp(-gate)) * up
