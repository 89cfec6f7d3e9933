"""The CUDA backend on the processor: the sources of csrc/cuda, compiled by the C++ compiler against tests/cpp/cuda_host,
which runs kernels thread by thread. `add_table` makes them the table "cuda" of llada_rt._core."""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llada_rt import _core

ROOT = Path(__file__).parent.parent
FLAGS = ["-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unknown-pragmas", f"-I{ROOT}/csrc"]
FLAGS += [f"-I{ROOT}/tests/cpp"]
OF_CORE = ["core/pages.cc", "core/parallel.cc", "core/tensor.cc", "core/env.cc", "model/quantization.cc"]


def sources() -> list[Path]:
    """What is compiled: everything but the call of the CUDA runtime and the kernels that are CUTLASS's."""
    csrc = ROOT / "csrc"
    backend = [path for path in (csrc / "cuda").glob("*.c[uc]") if "cutlass" not in path.read_text()]
    return [*sorted(backend), *(csrc / name for name in OF_CORE), *sorted((ROOT / "tests/cpp/cuda_host").glob("*.cc"))]


def _compile(compiler: str, source: Path, folder: Path) -> Path:
    out = folder / f"{source.name}.o"
    standard = "-std=c++17" if source.suffix == ".cu" else "-std=c++20"
    command = [compiler, standard, *FLAGS, "-x", "c++", "-c", str(source), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
    return out


def _version() -> str:
    """Of everything that goes in."""
    seen = hashlib.sha256(" ".join(FLAGS).encode())
    for folder in (ROOT / "csrc", ROOT / "tests/cpp"):
        for path in sorted(folder.rglob("*")):
            if path.suffix in {".h", ".cuh", ".cu", ".cc"}:
                seen.update(f"{path.name}\n".encode() + path.read_bytes())
    return seen.hexdigest()[:16]


@functools.cache
def library() -> ctypes.CDLL:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler to build the imitation of a GPU with")
    base = ROOT / "build" / "cuda_host"
    built = base / f"cuda_host-{_version()}.so"
    if not built.exists():
        folder = base / f"objects-{os.getpid()}"
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(2) as pool:
            objects = list(pool.map(lambda source: _compile(compiler, source, folder), sources()))
        whole = folder / "cuda_host.so"
        subprocess.run([compiler, "-shared", "-pthread", *map(str, objects), "-o", str(whole)], check=True)
        for old in base.glob("*.so"):
            old.unlink()
        whole.rename(built)
        shutil.rmtree(folder)
    return ctypes.CDLL(str(built))


@functools.cache
def add_table() -> None:
    """Makes the table "cuda" known: that of the imitation."""
    door = library().llada_cuda_table
    door.restype = ctypes.c_void_p
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    _core.add_table(capsule(door(), None, None))
