"""Random inputs rounded to a compute type, and the bridge to torch for the plain same-precision versions."""

import numpy as np
import torch

TORCH = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    """float32 array whose values are exact in `dtype`."""
    return torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(TORCH[dtype]).float().numpy()


def normal(rng: np.random.Generator, *shape: int, dtype: str, scale: float = 1.0) -> np.ndarray:
    return rounded(scale * rng.standard_normal(shape), dtype)


def to_torch(x: np.ndarray, dtype: str) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x)).to(TORCH[dtype])


def to_numpy(x: torch.Tensor) -> np.ndarray:
    return x.float().numpy()
