"""The compiled half (csrc/bindings)."""

from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

SEQUENCE_DTYPE: np.dtype[np.void]
SPAN_DTYPE: np.dtype[np.void]
OUTCOME_DTYPE: np.dtype[np.void]
COMMIT_DTYPE: np.dtype[np.void]

def tables() -> list[str]: ...
def add_table(capsule: object) -> None: ...
def default_num_threads() -> int: ...
def build_info() -> dict[str, Any]: ...
def measure_peak(kind: str, num_threads: int = ...) -> float: ...
def describe_model(path: str) -> tuple[dict[str, Any], list[tuple[str, int, tuple[int, ...]]]]: ...

class Array:
    shape: tuple[int, int]
    def __dlpack_device__(self) -> tuple[int, int]: ...
    def __dlpack__(
        self,
        *,
        stream: object = ...,
        max_version: tuple[int, int] | None = ...,
        dl_device: tuple[int, int] | None = ...,
        copy: bool | None = ...,
    ) -> object: ...

class Ops:
    """Single ops of a table, for tests and benchmarks; csrc/bindings/ops_binding.cc has their signatures."""

    def __init__(self, table: str, num_threads: int = ..., repeats: int = ...) -> None: ...
    def __getattr__(self, op: str) -> Any: ...

class Runtime:
    config: dict[str, Any]
    compute_type: str
    table: str
    num_threads: int
    num_parameters: int
    weight_bytes: int
    kv_bytes_per_token: int
    num_open_slots: int
    kv_used_bytes: int
    free_device_bytes: int
    device_counts: dict[str, int]
    def __init__(
        self,
        path: str,
        compute_type: str = ...,
        table: str = ...,
        num_threads: int = ...,
        device_index: int = ...,
        stream: int = ...,
    ) -> None: ...
    def open_slot(self, tokens: NDArray[np.int32]) -> int: ...
    def write_slot(self, slot: int, tokens: NDArray[np.int32]) -> None: ...
    def close_slot(self, slot: int) -> None: ...
    def canvas(self, slot: int) -> NDArray[np.int32]: ...
    @overload
    def denoise(
        self, sequences: NDArray[np.void], spans: NDArray[np.void], max_steps: int, *, max_seconds: float = ...
    ) -> tuple[NDArray[np.void], NDArray[np.void]]: ...
    @overload
    def denoise(
        self,
        sequences: NDArray[np.void],
        spans: NDArray[np.void],
        max_steps: int,
        targets: NDArray[np.int32],
        max_seconds: float = ...,
    ) -> tuple[NDArray[np.void], NDArray[np.void], NDArray[np.float64]]: ...
    @overload
    def denoise(
        self,
        sequences: NDArray[np.void],
        spans: NDArray[np.void],
        max_steps: int,
        targets: NDArray[np.int32] | None = ...,
        max_seconds: float = ...,
        *,
        alternatives: Literal[True],
    ) -> tuple[NDArray[np.void], NDArray[np.void], NDArray[np.float64], NDArray[np.void]]: ...
    def kv_slot_bytes(self, length: int) -> int: ...
    def workspace_bytes(self, num_rows: int) -> int: ...
    def reserve_kv(self, num_bytes: int) -> None: ...
    def forward(self, tokens: NDArray[np.int32]) -> NDArray[np.float32]: ...
    def logits(self, slot: int, spans: NDArray[np.void], positions: NDArray[np.int32]) -> NDArray[np.float32]: ...
    def forward_in_place(self, tokens: NDArray[np.int32], hidden: bool) -> Array: ...
    def set_trace(self, on: bool) -> None: ...
    def trace(self) -> dict[str, tuple[int, int, int]]: ...
    def close(self) -> None: ...
