"""What the machine is and what this build holds: whoever reads the results later can ask neither."""

import importlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.flight import Flight
from benchmarks.gpu.sources_hash import sources_hash
from llada_rt import _core
from llada_rt.runtime import device

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "numpy", "cuda-core", "cuda-bindings", "cuda-python", "pytest", "pytest-xdist", "tokenizers")


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def nvidia_smi() -> str:
    fields = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit,ecc.mode.current"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, timeout=15, check=True).stdout.strip()


def run(flight: Flight) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    facts: dict[str, Any] = {"python": platform.python_version(), "cores": os.cpu_count(), "memory_bytes": memory}
    facts["scratch_free_bytes"] = shutil.disk_usage(flight.scratch).free
    flight.record("machine", **facts, versions={name: version_of(name) for name in PACKAGES})
    build = dict(_core.build_info())
    flight.claim("modules are of these sources", build["sources"] == sources_hash(ROOT), **build)
    if flight.dry:
        return
    with flight.attempt("nvidia-smi"):
        flight.record("nvidia-smi", says=nvidia_smi())
    missing = device.missing_cuda()
    flight.claim("a GPU can be used", missing is None, why=missing)
    module = importlib.import_module("llada_rt._cuda")
    facts = {"architectures": module.ARCHITECTURES, "sources": module.SOURCES}
    flight.claim("CUTLASS is in the build", module.HAS_CUTLASS, **facts)
    with flight.attempt("facts of the device"):
        flight.record("device", **device.device_facts(0), torch=torch.cuda.get_device_name(0))
