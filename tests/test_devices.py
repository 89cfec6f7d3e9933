"""Which GPUs there are, and what is known of them, with every cuda-python that may be installed: fakes of each."""

import json
import sys
import types
from typing import Any

import pytest

from llada_rt.runtime import device

NAMES = ["cuda.core", "cuda.core.experimental", "cuda.bindings.driver", "llada_rt._cuda"]
GPU = {"name": "H", "compute_capability": "9.0"}
CLOCKS = {"clock_khz": 1980000, "memory_clock_khz": 2619000, "memory_bus_bits": 5120}
USED = {"cuda_python": "cuda-python 13.0"}


class Device:
    """As cuda.core has it, of a machine with two GPUs."""

    def __init__(self, index: int) -> None:
        self.device_id, self.name, self.compute_capability = index, "H", (9, 0)
        self.properties = types.SimpleNamespace(
            clock_rate=1980000, memory_clock_rate=2619000, global_memory_bus_width=5120
        )


class NewDevice(Device):
    @classmethod
    def get_all_devices(cls) -> tuple[Device, ...]:
        return cls(0), cls(1)


class NoDriver(Device):
    """As cuda.core behaves where there is no driver: its own exceptions."""

    def __init__(self, index: int) -> None:
        raise RuntimeError("libcuda.so.1 was not found")

    @classmethod
    def get_all_devices(cls) -> None:
        raise RuntimeError("libcuda.so.1 was not found")


class Driver:
    """As cuda.bindings.driver: an error, then what was asked for."""

    CUdevice_attribute = types.SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=75, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=76
    )

    def __init__(self, error: int = 0) -> None:
        self.error = error

    def cuInit(self, flags: int) -> tuple[int]:
        return (self.error,)

    def cuDeviceGetCount(self) -> tuple[int, int]:
        return 0, 2

    def cuDeviceGet(self, index: int) -> tuple[int, int]:
        return 0, index

    def cuDeviceGetAttribute(self, attribute: int, gpu: int) -> tuple[int, int]:
        return 0, {75: 9, 76: 0}[attribute]

    def cuDeviceGetName(self, num_bytes: int, gpu: int) -> tuple[int, bytes]:
        return 0, b"H".ljust(num_bytes, b"\0")


def module(**names: Any) -> types.SimpleNamespace:
    return types.SimpleNamespace(**names)


def backend(count: int) -> types.SimpleNamespace:
    return module(
        probe=lambda: {"count": count, "why": "" if count else "no NVIDIA driver on this machine"},
        facts=lambda index: {"index": index, **GPU, "memory_bytes": 80 << 30},
        ARCHITECTURES="80 90a-real",
        HAS_CUTLASS=True,
    )


OLD = {  # before 0.5
    "cuda.core": module(),
    "cuda.core.experimental": module(Device=Device, system=module(num_devices=2)),
}
NEW = {"cuda.core": module(Device=NewDevice, system=module())}
BROKEN = {"cuda.core": module(Device=NoDriver, system=module())}


@pytest.fixture
def machine(monkeypatch):
    """Only these modules can be imported of those that know of GPUs."""

    def call(modules: dict[str, Any]) -> None:
        for name in NAMES:
            monkeypatch.setitem(sys.modules, name, modules.get(name))

    monkeypatch.setattr(device, "_cuda_python", lambda: "cuda-python 13.0")
    return call


@pytest.mark.parametrize(
    ("modules", "found_by"),
    [
        (NEW, "cuda.core"),
        (OLD, "cuda.core"),
        ({"cuda.bindings.driver": Driver()}, "cuda.bindings"),
        (BROKEN | {"cuda.bindings.driver": Driver()}, "cuda.bindings"),
        ({"cuda.core": module()} | {"cuda.bindings.driver": Driver()}, "cuda.bindings"),
    ],
    ids=["new", "old", "bindings", "broken", "empty"],
)
def test_gpus_of_a_build_without_a_backend(machine, modules, found_by):
    machine(modules)
    assert device.devices() == [{"index": index, **GPU, "found_by": found_by} for index in (0, 1)]


def test_the_backend_says_more(machine):
    machine(NEW | {"llada_rt._cuda": backend(2)})
    first, second = device.devices()
    assert first == {"index": 0, **GPU, "memory_bytes": 80 << 30, **CLOCKS, **USED, "found_by": "cuda.core"}
    assert second["index"] == 1


@pytest.mark.parametrize("modules", [{}, BROKEN, {"cuda.bindings.driver": Driver(error=100)}])
def test_the_backend_counts_where_no_package_does(machine, modules):
    machine(modules | {"llada_rt._cuda": backend(1)})
    found = {"index": 0, **GPU, "memory_bytes": 80 << 30, "cuda_python": None, "found_by": "llada_rt"}
    assert device.devices() == [found]
    machine(modules | {"llada_rt._cuda": backend(0)})
    assert device.devices() == []
    machine(modules)
    assert device.devices() == []


@pytest.mark.parametrize(
    ("modules", "more"),
    [
        (NEW, CLOCKS | USED),
        (OLD, CLOCKS | USED),
        (BROKEN, {"cuda_python": None}),
        ({"cuda.core": module()}, {"cuda_python": None}),
        ({}, {"cuda_python": None}),
        ({"cuda.core": module(Device=lambda index: module(properties=module()))}, {"cuda_python": None}),
        (
            {"cuda.core": module(Device=lambda index: module(properties=module(clock_rate=5, memory_clock_rate=None)))},
            {"clock_khz": 5} | USED,
        ),
    ],
    ids=["new", "old", "broken", "empty", "none", "no properties", "one property"],
)
def test_facts_with_any_cuda_python(machine, modules, more):
    machine(modules | {"llada_rt._cuda": backend(1)})
    assert device.device_facts(0) == {"index": 0, **GPU, "memory_bytes": 80 << 30, **more}


def test_versions_of_cuda_python(monkeypatch):
    def version(name: str) -> str:
        if name == "cuda-python":
            raise device.metadata.PackageNotFoundError
        return "1.2"

    monkeypatch.setattr(device.metadata, "version", version)
    assert device._cuda_python() == "cuda-core 1.2"


def test_what_was_built(machine):
    machine({"llada_rt._cuda": backend(0)})
    assert device.cuda_build() == {"architectures": ["80", "90a-real"], "has_cutlass": True}
    machine({})
    assert device.cuda_build() is None


@pytest.mark.parametrize("found", [True, False])
def test_a_build_without_cuda_says_how_to_get_it(machine, monkeypatch, found):
    machine({})
    monkeypatch.setattr(device._core, "build_info", lambda: {"nvcc_found": found})
    why = device.missing_cuda.__wrapped__()
    assert why.startswith("this build has no CUDA backend")
    assert ("nvcc was found when it was built" in why) is found
    assert why.endswith("pip install . -Ccmake.define.LLADA_CUDA=ON makes one, with nvcc")


def test_recorded_runs_are_whole():
    for run in json.loads(json.dumps(device.recorded_runs())):
        assert set(run) == {"device", "date", "commit", "what", "result"}
        assert all(isinstance(value, str) and value for value in run.values())
