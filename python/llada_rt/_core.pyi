"""The compiled half (csrc/bindings)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

SEQUENCE_DTYPE: np.dtype[np.void]
SPAN_DTYPE: np.dtype[np.void]
OUTCOME_DTYPE: np.dtype[np.void]
COMMIT_DTYPE: np.dtype[np.void]

def tables() -> list[str]: ...
def default_num_threads() -> int: ...
def build_info() -> dict[str, Any]: ...

class Runtime:
    config: dict[str, Any]
    compute_type: str
    table: str
    num_threads: int
    num_parameters: int
    weight_bytes: int
    kv_bytes_per_token: int
    num_open_slots: int
    def __init__(self, path: str, compute_type: str = ..., table: str = ..., num_threads: int = ...) -> None: ...
    def open_slot(self, tokens: NDArray[np.int32]) -> int: ...
    def close_slot(self, slot: int) -> None: ...
    def canvas(self, slot: int) -> NDArray[np.int32]: ...
    def denoise(
        self, sequences: NDArray[np.void], spans: NDArray[np.void], max_steps: int
    ) -> tuple[NDArray[np.void], NDArray[np.void]]: ...
    def forward(self, tokens: NDArray[np.int32]) -> NDArray[np.float32]: ...
    def log_probs(
        self,
        tokens: list[NDArray[np.int32]],
        targets: list[NDArray[np.int32]],
        guides: list[NDArray[np.int32]] | None,
        cfg_scale: float,
    ) -> list[NDArray[np.float64]]: ...
    def close(self) -> None: ...
