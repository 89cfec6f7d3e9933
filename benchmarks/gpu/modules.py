"""The compiled modules that a check runs: those of the kit's wheel if they are of this tree, else built here."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu.sources_hash import sources_hash


def hash_of(site: Path) -> str | None:
    """The hash of the sources that a folder's modules were made from; None if they don't load."""
    code = "from llada_rt import _core; print(_core.build_info()['sources'])"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=site)
    return done.stdout.strip() or None


def unpack(wheels: list[Path], site: Path) -> None:
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)


def build(root: Path, site: Path) -> None:
    """With the nvcc, cmake, ninja and pybind11 that are here, for the GPU that is here. Raises CalledProcessError."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    capability = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0].replace(".", "")
    arch = f"{capability}a-real" if int(capability) >= 90 else f"{capability}-real"
    ask = [sys.executable, "-m", "pybind11", "--cmakedir"]
    pybind11 = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    folder = root / "build" / "gpu"
    options = ["-G", "Ninja", "-DLLADA_CUDA=ON", f"-DLLADA_CUDA_ARCHS={arch}"]
    options += [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11}"]
    subprocess.run(["cmake", "-S", root, "-B", folder, *options], check=True)
    subprocess.run(["ninja", "-C", folder, "_core", "_cuda"], check=True)
    for module in folder.glob("_c*.so"):
        shutil.copy(module, site / "llada_rt")


def prepare(root: Path, say: Callable[[str], None]) -> Path | None:
    """The folder to import llada_rt from; None: what is installed. root: of the tree, in its kit or not."""
    wheels = sorted((root.parent / "wheel").glob("*.whl"))
    if not wheels:
        return None
    site, wanted = root.parent / "site", sources_hash(root)
    unpack(wheels, site)
    found = hash_of(site)
    if found == wanted:
        say(f"modules of the wheel, sources {found}")
        return site
    say(f"BUILDING: the wheel's modules are of sources {found}, this tree is {wanted}")
    build(root, site)
    say(f"built: sources {hash_of(site)}")
    return site
