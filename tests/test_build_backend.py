"""When a build asks for the headers of CUTLASS (cmake/build_backend.py)."""

import importlib.util
import sys
import types
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "cmake/build_backend.py"
NVCC = {"CUDACXX": "/opt/cuda/bin/nvcc"}


@pytest.fixture
def backend(monkeypatch):
    """The backend over one of scikit-build-core that wants ninja alone."""
    below = types.ModuleType("scikit_build_core.build")
    below.get_requires_for_build_wheel = lambda settings: ["ninja"]
    below.get_requires_for_build_editable = lambda settings: ["ninja", "editable"]
    below.build_wheel = lambda folder, settings=None, metadata=None: f"{folder}/a.whl"
    monkeypatch.setitem(sys.modules, "scikit_build_core", types.ModuleType("scikit_build_core"))
    monkeypatch.setitem(sys.modules, "scikit_build_core.build", below)
    spec = importlib.util.spec_from_file_location("build_backend", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_a_build_asks_for(backend, monkeypatch):
    monkeypatch.setattr(backend, "wants_cutlass", lambda environment, settings: settings == {"a": "b"})
    assert backend.get_requires_for_build_wheel() == ["ninja"]
    assert backend.get_requires_for_build_wheel({"a": "b"}) == ["ninja", "nvidia-cutlass==4.2.0.0"]
    assert backend.get_requires_for_build_editable({"a": "b"}) == ["ninja", "editable", "nvidia-cutlass==4.2.0.0"]


def test_other_hooks_are_those_below(backend):
    assert backend.build_wheel("out") == "out/a.whl"
    assert not hasattr(backend, "prepare_metadata_for_build_wheel")  # scikit-build-core does not always have it


def program(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nvcc").write_text("#!/bin/sh\n")
    (folder / "nvcc").chmod(0o755)
    return folder


@pytest.mark.parametrize("name", ["PATH", "CUDA_HOME", "CUDA_PATH", "usual"])
def test_nvcc_is_found_where_cmake_looks(backend, tmp_path, name):
    home = tmp_path / "cuda"
    value = str(home / "bin") if name == "PATH" else str(home)
    environment, usual = ({}, value) if name == "usual" else ({name: value}, str(tmp_path / "none"))
    assert not backend.has_nvcc(environment, usual)
    program(home / "bin")
    assert backend.has_nvcc(environment, usual)
    assert backend.has_nvcc(NVCC, str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("arguments", "settings", "wanted"),
    [
        ("", {}, True),
        ("-DLLADA_CUDA=ON", {}, True),
        ("-G Ninja -DLLADA_CUDA=OFF", {}, False),
        ("-DLLADA_CUDA:STRING=OFF", {}, False),
        ("-D LLADA_CUDA=OFF", {}, False),
        ("'-DOTHER=LLADA_CUDA=OFF -DLLADA_CUDA=OFF'", {}, True),
        ("", {"cmake.define.LLADA_CUDA": "OFF"}, False),
        ("", {"cmake.define.LLADA_CUDA": ["ON", "OFF"]}, False),
        ("", {"skbuild.cmake.define.LLADA_CUDA": "OFF"}, False),
        ("", {"cmake.args": ["-DA=1", "-DLLADA_CUDA=OFF"]}, False),
        ("", {"cmake.args": "-DA=1;-DLLADA_CUDA=OFF"}, False),
        ("-DLLADA_CUDA=ON", {"cmake.define.LLADA_CUDA": "OFF"}, True),  # CMake takes the last, CMAKE_ARGS
        ("-DCUTLASS_DIR=/opt/cutlass", {}, False),
        ("", {"cmake.define.CUTLASS_DIR": "/opt/cutlass"}, False),
        ("-DCUTLASS_DIR=", {}, True),
    ],
)
def test_options_that_do_without(backend, arguments, settings, wanted):
    assert backend.wants_cutlass(NVCC | {"CMAKE_ARGS": arguments}, settings) is wanted


def test_without_nvcc_nothing_is_wanted(backend, monkeypatch):
    monkeypatch.setattr(backend, "has_nvcc", lambda environment: False)
    assert not backend.wants_cutlass({}, {})
    assert not backend.wants_cutlass({"CMAKE_ARGS": "-DLLADA_CUDA=ON"}, {})
    assert backend.wants_cutlass({}, {"cmake.define.CMAKE_CUDA_COMPILER": "/opt/cuda/bin/nvcc"})
