"""The CUDA backend (csrc/cuda), where it was built."""

from typing import Any

ARCHITECTURES: str
HAS_CUTLASS: bool

def probe() -> dict[str, Any]: ...
def facts(index: int) -> dict[str, Any]: ...
def table() -> object: ...
