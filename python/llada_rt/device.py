"""Devices: where an engine runs. The CUDA backend is a module of its own (csrc/cuda), loaded when it is asked for; the
processor stays usable whatever is wrong with it.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Any

from .errors import DeviceError

try:
    from . import _core
except ImportError as error:
    raise DeviceError(
        f"the compiled module llada_rt._core cannot be loaded: {error}",
        hint="build the package from its source folder: pip install .",
    ) from error

CUDA_TABLE = "cuda"


@dataclass(frozen=True, slots=True)
class Placement:
    """A table of ops, and the device that it computes on."""

    device: str  # "cpu", "cuda:0"
    table: str
    index: int = 0

    @property
    def is_gpu(self) -> bool:
        return self.table == CUDA_TABLE


def cpu_tables() -> list[str]:
    """Instruction-set tables that this machine can run, best first."""
    return [name for name in _core.tables() if name != CUDA_TABLE]


@functools.cache
def missing_cuda() -> str | None:
    """Why no GPU can be used here, in words for a person; None if one can. Loads the backend."""
    try:
        backend = importlib.import_module("._cuda", __package__)
    except ModuleNotFoundError:
        return "this build has no CUDA backend"
    except ImportError as error:
        return f"the CUDA backend cannot be loaded: {error}"
    found = backend.probe()
    if not found["count"]:
        return str(found["why"])
    _core.add_table(backend.table())
    return None


def place(device: str, table: str | None) -> Placement:
    """Where "auto", "cpu", "cuda" or "cuda:1" is, on the processor with the instruction-set table of that name.

    "auto" takes the first GPU if there is one and no table was named. Raises DeviceError.
    """
    if device == "auto" and table is None and missing_cuda() is None:
        return Placement("cuda:0", CUDA_TABLE)
    if device in ("auto", "cpu"):
        tables = cpu_tables()
        if table is not None and table not in tables:
            raise DeviceError(f"table {table!r} cannot run here: expected one of {', '.join(tables)}", param="table")
        return Placement("cpu", table or tables[0])
    if table is not None:
        raise DeviceError(f"table {table!r} is the processor's, got device {device!r} beside it", param="table")
    missing = missing_cuda()
    if missing is not None:
        raise DeviceError(
            f"device {device!r} cannot be used: {missing}; there is 'cpu' with the tables {', '.join(cpu_tables())}",
            param="device",
        )
    index = int(device.partition(":")[2] or 0)
    return Placement(f"cuda:{index}", CUDA_TABLE, index)


def device_facts(index: int) -> dict[str, Any]:
    """Name, compute capability, memory, processors, driver of a GPU; with the package cuda-python also its clocks and
    the width of its memory bus. Raises DeviceError.
    """
    facts: dict[str, Any] = dict(importlib.import_module("._cuda", __package__).facts(index))
    try:
        properties = importlib.import_module("cuda.core").Device(index).properties
    except ImportError:
        return facts
    facts["clock_khz"] = properties.clock_rate
    facts["memory_clock_khz"] = properties.memory_clock_rate
    facts["memory_bus_bits"] = properties.global_memory_bus_width
    return facts


def stream_handle(stream: Any) -> int:
    """The number behind a CUDA stream, of cuda.core (`__cuda_stream__`), torch or cupy, or the number itself; 0 for
    None.

    Raises DeviceError for anything else.
    """
    if stream is None:
        return 0
    if hasattr(stream, "__cuda_stream__"):
        version, handle = stream.__cuda_stream__()
        if version != 0:
            raise DeviceError(f"stream: expected version 0 of __cuda_stream__, got {version}", param="stream")
        return int(handle)
    for name in ("cuda_stream", "ptr"):  # torch, cupy
        if isinstance(getattr(stream, name, None), int):
            return int(getattr(stream, name))
    if isinstance(stream, int) and not isinstance(stream, bool) and stream >= 0:
        return stream
    raise DeviceError(
        f"stream: expected an object with __cuda_stream__, a stream of torch or cupy or a handle, got {stream!r}",
        param="stream",
    )
