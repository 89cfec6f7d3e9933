"""When a build asks for the headers of CUTLASS (cmake/build_backend.py), what a source distribution leaves out, and
where the version stands."""

import importlib.util
import sys
import tomllib
import types
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "cmake/build_backend.py"


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


@pytest.mark.parametrize(
    ("arguments", "settings", "wanted"),
    [
        ("", {}, False),
        ("-DLLADA_CUDA=ON", {}, True),
        ("-G Ninja -DLLADA_CUDA=OFF", {}, False),
        ("-DLLADA_CUDA:BOOL=ON", {}, True),
        ("-D LLADA_CUDA=ON", {}, True),
        ("-DLLADA_CUDA=1", {}, True),
        ("-DLLADA_CUDA=0", {}, False),
        ("-DLLADA_CUDA=AUTO", {}, False),
        ("'-DOTHER=LLADA_CUDA=ON -DLLADA_CUDA=ON'", {}, False),
        ("", {"cmake.define.LLADA_CUDA": "ON"}, True),
        ("", {"cmake.define.LLADA_CUDA": "true"}, True),
        ("", {"cmake.define.LLADA_CUDA": ["ON", "OFF"]}, False),
        ("", {"skbuild.cmake.define.LLADA_CUDA": "ON"}, True),
        ("", {"cmake.args": ["-DA=1", "-DLLADA_CUDA=ON"]}, True),
        ("", {"cmake.args": "-DA=1;-DLLADA_CUDA=ON"}, True),
        ("-DLLADA_CUDA=ON", {"cmake.define.LLADA_CUDA": "OFF"}, True),  # CMake takes the last, CMAKE_ARGS
        ("-DLLADA_CUDA=ON -DCUTLASS_DIR=/opt/cutlass", {}, False),
        ("-DLLADA_CUDA=ON", {"cmake.define.CUTLASS_DIR": "/opt/cutlass"}, False),
        ("-DLLADA_CUDA=ON -DCUTLASS_DIR=", {}, True),
    ],
)
def test_only_a_build_with_cuda_and_no_headers_wants_them(backend, arguments, settings, wanted):
    # Where nvcc is plays no part: this machine may have one.
    assert backend.wants_cutlass({"CMAKE_ARGS": arguments, "CUDACXX": "/opt/cuda/bin/nvcc"}, settings) is wanted


def test_a_source_distribution_leaves_out_folders_of_the_root_alone():
    """A pattern without a slash before it is of any folder: "data" would take tests/data along."""
    settings = tomllib.loads((PATH.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["scikit-build"]["sdist"]["exclude"]
    assert patterns
    assert [pattern for pattern in patterns if not pattern.startswith("/")] == []


def test_the_version_stands_once():
    """tests/engine/test_lifecycle.py holds what is compiled in to it."""
    root = PATH.parents[1]
    version = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    places = [root / "CMakeLists.txt"]
    for folder, pattern in (("cmake", "*.cmake"), ("python", "*.py"), ("csrc", "*.*")):
        places += (root / folder).rglob(pattern)
    assert len(places) > 100
    assert [path.name for path in places if version in path.read_text(encoding="utf-8")] == []
