"""Devices: where an engine runs.

The CUDA backend is a module of its own (csrc/cuda), which is loaded when a device is asked for. The processor stays
usable, whatever is wrong with that module.
"""

from __future__ import annotations

import functools
import importlib
import json
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from ..errors import DeviceError
from ..excerpt import excerpt_of

try:
    from .. import _core
except ImportError as error:
    raise DeviceError(
        f"the compiled module llada_rt._core cannot be loaded: {error}",
        hint="build the package from its source folder: pip install .",
    ) from error

__version__: str = _core.build_info()["version"]  # of pyproject.toml, compiled in
CUDA_TABLE = "cuda"
# What cuda.core knows of a GPU beyond the backend: the name of a fact, and of its property.
PROPERTIES = {
    "clock_khz": "clock_rate",
    "memory_clock_khz": "memory_clock_rate",
    "memory_bus_bits": "global_memory_bus_width",
}


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
        backend = importlib.import_module("llada_rt._cuda")
    except ModuleNotFoundError:
        found = "; nvcc was found when it was built" if _core.build_info()["nvcc_found"] else ""
        return f"this build has no CUDA backend{found}: pip install . -Ccmake.define.LLADA_CUDA=ON makes one, with nvcc"
    except ImportError as error:
        return f"the CUDA backend cannot be loaded: {error}"
    found = backend.probe()
    if not found["count"]:
        return str(found["why"])
    try:
        _core.add_table(backend.table())
    except DeviceError as error:  # a backend of another build
        return f"the CUDA backend cannot be used: {error.message}"
    return None


def place(device: str, cpu_isa: str | None) -> Placement:
    """Where "auto", "cpu", "cuda" or "cuda:1" is, on the processor with the table of that instruction set.

    "auto" takes the first GPU if there is one and no instruction set was named. Raises DeviceError.
    """
    if device == "auto" and cpu_isa is None and missing_cuda() is None:
        return Placement("cuda:0", CUDA_TABLE)
    if device in ("auto", "cpu"):
        tables = cpu_tables()
        if cpu_isa is not None and cpu_isa not in tables:
            raise DeviceError(
                f"cpu_isa: expected one that this machine can run ({', '.join(tables)}), got {excerpt_of(cpu_isa)}",
                param="cpu_isa",
            )
        return Placement("cpu", cpu_isa or tables[0])
    if cpu_isa is not None:
        raise DeviceError(
            f"cpu_isa: expected device 'cpu' beside {excerpt_of(cpu_isa)}, got device {device!r}", param="cpu_isa"
        )
    missing = missing_cuda()
    if missing is not None:
        raise DeviceError(
            f"device {device!r} cannot be used: {missing}; there is 'cpu' with the tables {', '.join(cpu_tables())}",
            param="device",
        )
    index = int(device.partition(":")[2] or 0)
    return Placement(f"cuda:{index}", CUDA_TABLE, index)


def cuda_build() -> dict[str, Any] | None:
    """What the CUDA backend was compiled for: "architectures", "has_cutlass"; None where this build has none."""
    try:
        backend = importlib.import_module("llada_rt._cuda")
    except ImportError:
        return None
    return {"architectures": str(backend.ARCHITECTURES).split(), "has_cutlass": bool(backend.HAS_CUTLASS)}


def session_bytes() -> int:
    """What an engine takes of a GPU beside weights, K/V and workspace; 0 where this build has no CUDA backend."""
    try:
        return int(importlib.import_module("llada_rt._cuda").SESSION_BYTES)
    except ImportError:
        return 0


def recorded_runs() -> list[dict[str, str]]:
    """What has run on a GPU, written down when it did: "device", "date", "commit", "what", "result" of each."""
    text = (Path(__file__).parents[1] / "gpu_runs.json").read_text(encoding="utf-8")
    return cast("list[dict[str, str]]", json.loads(text))


def device_facts(index: int) -> dict[str, Any]:
    """Name, compute capability, memory, processors and driver of a GPU. Raises DeviceError.

    The package cuda-python adds the clocks and the width of the memory bus; "cuda_python" is its version, else None.
    """
    facts: dict[str, Any] = dict(importlib.import_module("llada_rt._cuda").facts(index))
    more: dict[str, Any] = {}
    for name, source in PROPERTIES.items():
        # Whatever is wrong with a package that an engine can do without, or missing in an older one: a fact less.
        with suppress(Exception):
            more[name] = int(getattr(_cuda_core().Device(index).properties, source))
    return facts | more | {"cuda_python": _cuda_python() if more else None}


def devices() -> list[dict[str, Any]]:
    """Every GPU that CUDA has here, also for a build without a backend. Never raises.

    A GPU has "index", "name", "compute_capability" and "found_by" (who found it); its `device_facts` too if the backend
    can use the GPU.
    """
    found: list[dict[str, Any]] = []
    for found_by, ask in (("cuda.core", _of_cuda_core), ("cuda.bindings", _of_driver), ("llada_rt", _of_backend)):
        with suppress(Exception):  # who cannot say leaves it to the next
            found = [{"index": index, **gpu, "found_by": found_by} for index, gpu in enumerate(ask())]
        if found:
            break
    for gpu in found:
        with suppress(Exception):
            gpu |= device_facts(gpu["index"])
    return found


def _cuda_core() -> Any:
    """The module of cuda.core that knows devices. Raises ImportError, or what the package raises."""
    module = importlib.import_module("cuda.core")
    return module if hasattr(module, "Device") else importlib.import_module("cuda.core.experimental")  # before 0.5


def _cuda_python() -> str:
    """Versions of what is installed of cuda-python."""
    found = []
    for name in ("cuda-python", "cuda-core"):
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return ", ".join(found) or "unknown"


def _of_cuda_core() -> list[dict[str, Any]]:
    core = _cuda_core()
    if hasattr(core.Device, "get_all_devices"):
        gpus = core.Device.get_all_devices()
    else:
        gpus = [core.Device(index) for index in range(core.system.num_devices)]
    return [{"name": str(gpu.name), "compute_capability": _capability(*gpu.compute_capability)} for gpu in gpus]


def _of_driver() -> list[dict[str, Any]]:
    driver = importlib.import_module("cuda.bindings.driver")

    def ask(name: str, *arguments: Any) -> Any:
        error, *values = getattr(driver, name)(*arguments)
        if int(error) != 0:
            raise DeviceError(f"{name}: {error}")
        return values[0] if values else None

    ask("cuInit", 0)
    found = []
    for index in range(ask("cuDeviceGetCount")):
        gpu = ask("cuDeviceGet", index)
        parts = [
            ask("cuDeviceGetAttribute", getattr(driver.CUdevice_attribute, name), gpu)
            for name in (
                "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR",
                "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR",
            )
        ]
        name = ask("cuDeviceGetName", 256, gpu).partition(b"\0")[0].decode()
        found.append({"name": name, "compute_capability": _capability(*parts)})
    return found


def _of_backend() -> list[dict[str, Any]]:
    backend = importlib.import_module("llada_rt._cuda")
    return [dict(backend.facts(index)) for index in range(backend.probe()["count"])]


def _capability(major: int, minor: int) -> str:
    return f"{major}.{minor}"


def stream_handle(stream: Any) -> int:
    """The number behind a CUDA stream of cuda.core (`__cuda_stream__`), torch or cupy, or the number itself.

    None gives 0. Raises DeviceError for anything else.
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
        f"stream: expected an object with __cuda_stream__, a stream of torch or cupy or a handle, "
        f"got {excerpt_of(stream)}",
        param="stream",
    )
