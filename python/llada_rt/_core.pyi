"""The compiled half (csrc/bindings). tests/test_stubs.py holds this file to the module."""

from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

SEQUENCE_DTYPE: np.dtype[np.void]
SPAN_DTYPE: np.dtype[np.void]
SELECT_KINDS: tuple[str, ...]
SCORES: tuple[str, ...]
COMPUTE_TYPES: tuple[str, ...]
ELEMENT_TYPES: dict[str, dict[str, Any]]
OUTCOME_DTYPE: np.dtype[np.void]
COMMIT_DTYPE: np.dtype[np.void]

def tables() -> list[str]: ...
def add_table(capsule: object) -> None: ...
def default_num_threads() -> int: ...
def build_info() -> dict[str, Any]: ...
def measure_peak(kind: str, num_threads: int = ...) -> float: ...
def describe_model(path: str | bytes) -> tuple[dict[str, Any], list[tuple[str, int, tuple[int, ...]]]]: ...
def runnable_types(path: str | bytes, table: str = ...) -> tuple[str, ...]: ...
def memory_needs(
    path: str | bytes, compute_type: str = ..., table: str = ..., num_threads: int = ..., num_rows: int = ...
) -> tuple[str, int, int, int]: ...
def footprint(
    path: str | bytes,
    length: int,
    num_rows: int,
    num_candidates: int,
    compute_type: str = ...,
    table: str = ...,
    num_threads: int = ...,
) -> dict[str, Any]: ...

class HiddenRows:
    def __len__(self) -> int: ...
    def logits(self, begin: int, end: int) -> NDArray[np.float32]: ...

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

class Runtime:
    config: dict[str, Any]
    compute_type: str
    table: str
    num_threads: int
    num_parameters: int
    weight_bytes: int
    kv_bytes_per_token: int
    num_open_slots: int
    device_counts: dict[str, int]
    kv_used_bytes: int
    free_device_bytes: int
    def __init__(
        self,
        path: str | bytes,
        compute_type: str = ...,
        table: str = ...,
        num_threads: int = ...,
        device_index: int = ...,
        stream: int = ...,
    ) -> None: ...
    def open_slot(self, tokens: NDArray[np.int32], last_position: int = ...) -> int: ...
    def copy_slot(self, slot: int) -> int: ...
    def write_slot(self, slot: int, tokens: NDArray[np.int32], last_position: int = ...) -> None: ...
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
        allowed_positions: NDArray[np.int32] | None = ...,
        allowed: NDArray[np.uint32] | None = ...,
    ) -> tuple[NDArray[np.void], NDArray[np.void], NDArray[np.float64], NDArray[np.void]]: ...
    def kv_slot_bytes(self, length: int) -> int: ...
    def workspace_bytes(self, num_rows: int) -> int: ...
    def reserve_kv(self, num_bytes: int) -> None: ...
    def forward(self, tokens: NDArray[np.int32]) -> NDArray[np.float32]: ...
    def logits(self, slot: int, spans: NDArray[np.void], positions: NDArray[np.int32]) -> NDArray[np.float32]: ...
    def hidden(self, slot: int, spans: NDArray[np.void], positions: NDArray[np.int32]) -> HiddenRows: ...
    def forward_in_place(self, tokens: NDArray[np.int32], hidden: bool) -> Array: ...
    def set_trace(self, on: bool) -> None: ...
    def trace(self) -> dict[str, tuple[int, int, int]]: ...
    def close(self) -> None: ...

class Ops:
    """Single ops of one table, for tests and benchmarks: csrc/ops/ops.h says what each does."""

    name: str
    def __init__(self, table: str, num_threads: int = ..., repeats: int = ...) -> None: ...
    def trace(self) -> dict[str, tuple[int, int, int]]: ...
    def embed(self, tokens: NDArray[np.int32], weight: NDArray[np.float32], dtype: str) -> NDArray[np.float32]: ...
    def rms_norm(
        self, x: NDArray[np.float32], weight: NDArray[np.float32], eps: float, dtype: str
    ) -> NDArray[np.float32]: ...
    def rms_norm_quantized(
        self, x: NDArray[np.float32], weight: NDArray[np.float32], eps: float, compute_type: str = ...
    ) -> tuple[NDArray[Any], NDArray[np.float32]]: ...
    def quantize(self, x: NDArray[np.float32], compute_type: str = ...) -> tuple[NDArray[Any], NDArray[np.float32]]: ...
    def quantize_weight(self, weight: NDArray[np.float32], dtype: str) -> tuple[NDArray[Any], NDArray[np.float32]]: ...
    def keep_rows(self, x: NDArray[np.float32], rows: NDArray[np.int32]) -> NDArray[np.float32]: ...
    def matmul(
        self,
        x: NDArray[np.float32],
        weight: NDArray[np.float32],
        compute_type: str,
        residual: NDArray[np.float32] | None = ...,
    ) -> NDArray[np.float32]: ...
    def matmul_swiglu(
        self, x: NDArray[np.float32], weight: NDArray[np.float32], compute_type: str, out_dtype: str
    ) -> NDArray[np.float32]: ...
    def rope_kv_write(
        self,
        q: NDArray[np.float32],
        k: NDArray[np.float32],
        v: NDArray[np.float32],
        positions: NDArray[np.int32],
        length: int,
        theta: float,
        dtype: str,
        places: NDArray[np.int32] | None = ...,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]: ...
    def attention(
        self,
        q: NDArray[np.float32],
        k: NDArray[np.float32],
        v: NDArray[np.float32],
        spans: NDArray[np.int32],
        dtype: str,
        out_dtype: str | None = ...,
    ) -> NDArray[np.float32]: ...
    def ragged_attention(
        self,
        q: NDArray[np.float32],
        ks: Sequence[NDArray[np.float32]],
        vs: Sequence[NDArray[np.float32]],
        spans: NDArray[np.int32],
        dtype: str,
        out_dtype: str | None = ...,
    ) -> NDArray[np.float32]: ...
    def candidates(
        self,
        hidden: NDArray[np.float32],
        head: NDArray[np.float32],
        compute_type: str,
        *,
        guide_hidden: NDArray[np.float32] | None = ...,
        guidance_scale: float = ...,
        temperature: float = ...,
        seed: int = ...,
        step: int = ...,
        positions: NDArray[np.int32],
        score: int = ...,
        mask_id: int = ...,
        propose_mask: bool = ...,
        suppressed_token: int = ...,
        unconfident_token_0: int = ...,
        unconfident_token_1: int = ...,
        targets: NDArray[np.int32] | None = ...,
        num_alternatives: int = ...,
        allowed: NDArray[np.uint32] | None = ...,
    ) -> dict[str, Any]: ...
    def commit(
        self,
        canvas: NDArray[np.int32],
        positions: NDArray[np.int32],
        tokens: NDArray[np.int32],
        confidence: NDArray[np.float64],
        select: int,
        count: int,
        select_value: float,
        mask_id: int,
        alternatives: tuple[NDArray[np.int32], NDArray[np.float64]] | None = ...,
        near_value: float = ...,
        radius: int = ...,
        entropy: NDArray[np.float64] | None = ...,
    ) -> tuple[NDArray[Any], NDArray[Any]]: ...
    def measure_peak(self, dtype: str) -> float: ...
