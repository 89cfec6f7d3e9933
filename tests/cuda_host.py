"""The CUDA backend on the processor: the sources of csrc/cuda, compiled by the C++ compiler against
tests/cpp/cuda_host, which runs kernels thread by thread. `add_table` makes them the table "cuda" of llada_rt._core.
"""

import ctypes
import functools
import hashlib
import importlib
import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llada_rt import _core
from llada_rt.runtime import device

ROOT = Path(__file__).parent.parent
WARNINGS = ["-Wall", "-Wextra", "-Wno-unknown-pragmas"]
# Alignment as a GPU wants it: what is called where an address is wrong is in cuda_host/alignment.cc, not in a library.
CHECKS = ["-fsanitize=alignment"]
# A field of the table that is left out is an error, as in CMakeLists.txt.
ERRORS = ["-Werror=missing-field-initializers"]
FLAGS = ["-O2", "-fPIC", "-fvisibility=hidden", *CHECKS, *WARNINGS, *ERRORS, f"-I{ROOT}/csrc", f"-I{ROOT}/tests/cpp"]
OFFER_NAME = b"llada_rt.Ops"
# What passes between the two modules, as in cmake/SourceHashes.cmake.
SHARED_HEADERS = ["core/check.h", "core/dtype.h", "core/parallel.h", "core/tensor.h", "ops/ops.h"]
OF_CORE = ["core/pages.cc", "core/parallel.cc", "core/tensor.cc", "core/env.cc", "model/quantization.cc"]


def sources() -> list[Path]:
    """What is compiled: everything but the calls of the CUDA runtime and the kernels that are CUTLASS's."""
    csrc = ROOT / "csrc"
    own = [path for path in sorted((csrc / "cuda").rglob("*.c[uc]")) if path.parent.name != "cutlass"]
    backend = [path for path in own if path != csrc / "cuda/device/api.cu"]
    imitation = sorted((ROOT / "tests/cpp/cuda_host").glob("*.cc"))
    return [*backend, *(csrc / name for name in OF_CORE), *imitation]


def ops_hash() -> str:
    """As CMake takes it (cmake/SourceHashes.cmake)."""
    hashes = [hashlib.sha256((ROOT / "csrc" / name).read_bytes()).hexdigest() for name in SHARED_HEADERS]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def capsule(address: int, name: bytes = OFFER_NAME) -> object:
    """The capsule of an offer (csrc/ops/offer.h); both must live as long as it."""
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return make(address, name, None)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"error: {' '.join(command)}\n{done.stderr}")


def _compile(compiler: str, source: Path, folder: Path) -> Path:
    out = folder / f"{source.relative_to(ROOT).as_posix().replace('/', '-')}.o"
    standard = "-std=c++17" if source.suffix == ".cu" else "-std=c++20"
    _run(compiler, standard, *FLAGS, f'-DLLADA_OPS_HASH="{ops_hash()}"', "-x", "c++", "-c", str(source), "-o", str(out))
    return out


def _version() -> str:
    """A hash of everything that goes in."""
    seen = hashlib.sha256(" ".join(FLAGS).encode())
    for folder in (ROOT / "csrc", ROOT / "tests/cpp"):
        for path in sorted(folder.rglob("*")):
            if path.suffix in {".h", ".cuh", ".cu", ".cc"}:
                seen.update(f"{path.name}\n".encode() + path.read_bytes())
    return seen.hexdigest()[:16]


@functools.cache
def _build() -> Path | str:
    """The library, or why there is none: tried once."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        return "no C++ compiler to build the imitation of a GPU with"
    if platform.machine() not in ("x86_64", "AMD64"):
        return "the imitation of a GPU switches stacks on x86-64 only"
    base = ROOT / "build" / "cuda_host"
    built = base / f"cuda_host-{_version()}.so"
    if built.exists():
        return built
    folder = base / f"objects-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with ThreadPoolExecutor(2) as pool:
            objects = list(pool.map(lambda source: _compile(compiler, source, folder), sources()))
        whole = folder / "cuda_host.so"
        _run(compiler, "-shared", "-pthread", *map(str, objects), "-o", str(whole))
        for old in base.glob("*.so"):
            old.unlink()
        whole.rename(built)
    except RuntimeError as error:
        return str(error)
    finally:
        shutil.rmtree(folder)
    return built


def library() -> ctypes.CDLL:
    built = _build()
    if isinstance(built, str):
        pytest.fail(built) if "error" in built else pytest.skip(built)
    return ctypes.CDLL(str(built))


def doors() -> ctypes.CDLL:
    """What csrc/cuda/doors.cu opens: of the module where there is a GPU, else of the imitation."""
    if device.missing_cuda() is None:
        return ctypes.CDLL(importlib.import_module("llada_rt._cuda").__file__)
    return library()


@functools.cache
def add_table() -> None:
    """Makes the table "cuda" known: that of a GPU if there is one, else the imitation."""
    if device.missing_cuda() is None:
        return
    door = library().llada_cuda_offer
    door.restype = ctypes.c_void_p
    _core.add_table(capsule(door()))
