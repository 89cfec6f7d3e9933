"""The floors of the house, read from #include and import lines: nothing points up, nothing sideways."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# C++ folder -> folders it may include. The model and the loop call through the Ops table, never a cpu/ or cuda/ header.
BASE = {"core", "ops"}
CSRC = {
    "core": {"core"},
    "ops": BASE,
    "cpu": BASE | {"cpu"},
    "cuda": BASE | {"cuda"},
    "model": BASE | {"model"},
    "denoise": BASE | {"model", "denoise"},
    "bindings": BASE | {"cpu", "cuda", "model", "denoise", "bindings"},
}

# Places of the package, lowest first: folders, and what lies beside them. A file may import from its own place and from
# those before it.
PLACES: list[set[str]] = [
    {"errors", "excerpt", "json_values", "log", "_core"},
    {"options"},
    {"params", "config"},
    {"outputs"},
    {"planning"},
    {"folder"},
    {"text"},
    {"runtime"},
    {"engine"},
    {"async_engine"},
    {"tools"},
    {"server"},
    {"cli"},
    {"__main__", "__init__"},
]
FLOOR = {place: floor for floor, places in enumerate(PLACES) for place in places}
CORE_USERS = {("runtime", "runner"), ("runtime", "device")}  # who may name the compiled module
FORBIDDEN = {"llada_rt": {"torch", "training", "benchmarks", "tests"}, "training": {"benchmarks", "tests"}}


def include_faults(folder: str, text: str) -> list[str]:
    """Quoted includes of a file in csrc/<folder> that are not its to use; a name without a folder is a neighbour."""
    names = re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, re.MULTILINE)
    targets = {name: name.split("/")[0] if "/" in name else folder for name in names}
    return [f'{folder}/ includes "{name}"' for name, target in targets.items() if target not in CSRC[folder]]


def imports(text: str, package: str) -> set[str]:
    """Dotted names of what a module of `package` imports, relative imports resolved."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def import_faults(path: Path, text: str) -> list[str]:
    """Imports in a Python file (path from the repository root) that point up or outside."""
    parts = path.with_suffix("").parts
    top = "llada_rt" if parts[0] == "python" else parts[0]
    names = imports(text, ".".join(parts[parts.index(top) : -1]))
    faults = [f"{path} imports {name}" for name in names if name.split(".")[0] in FORBIDDEN[top]]
    if top == "training":
        public_only = [name for name in names if name.startswith("llada_rt")]
        allowed = path.stem in {"evaluate", "reversal"} or "tasks" in parts
        faults += [f"{path} imports {n}" for n in public_only if not allowed or re.match(r"llada_rt\.[_a-z]", n)]
        return faults
    place = parts[2]
    for name in names:
        target = name.split(".")[1] if name.startswith("llada_rt.") and name.split(".")[1] in FLOOR else place
        is_core = target == "_core" and parts[2:] not in CORE_USERS
        if FLOOR[target] > FLOOR[place] or is_core:
            faults.append(f"{path} imports {name}")
    return faults


def circles(modules: dict[str, tuple[str, str]]) -> list[str]:
    """Modules that import each other, on the way round. modules: dotted name -> (package, text)."""
    arrows = {
        name: {target for each in imports(text, package) if (target := _module_of(each, modules)) not in (None, name)}
        for name, (package, text) in modules.items()
    }
    found, done = [], set()

    def walk(name: str, way: list[str]) -> None:
        if name in way:
            found.append(" -> ".join([*way[way.index(name) :], name]))
        elif name not in done:
            for target in sorted(arrows[name]):
                walk(target, [*way, name])
            done.add(name)

    for name in sorted(arrows):
        walk(name, [])
    return found


def _module_of(name: str, modules: dict[str, tuple[str, str]]) -> str | None:
    """The module that an imported name is, or lies in."""
    return name if name in modules else next((n for n in [name.rpartition(".")[0]] if n in modules), None)


def modules_of(folder: str) -> dict[str, tuple[str, str]]:
    root = ROOT / folder
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = (".".join(parts[:-1]), path.read_text())
    return found


def sources(folder: str, *patterns: str) -> list:
    paths = sorted(path for pattern in patterns for path in (ROOT / folder).rglob(pattern))
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in paths]


@pytest.mark.parametrize("path", sources("csrc", "*.h", "*.cc", "*.cu", "*.cuh"))
def test_includes_point_down(path: Path):
    folder = path.relative_to(ROOT / "csrc").parts[0]
    assert folder in CSRC, f"csrc/{folder} has no floor"
    assert include_faults(folder, path.read_text()) == []


@pytest.mark.parametrize("path", sources("python", "*.py") + sources("training", "*.py"))
def test_imports_point_down(path: Path):
    relative = path.relative_to(ROOT)
    if relative.parts[0] == "python":
        assert relative.with_suffix("").parts[2] in FLOOR, f"{relative} has no floor"
    assert import_faults(relative, path.read_text()) == []


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("core", '#include "ops/ops.h"'),
        ("cpu", '#  include "cuda/device.cuh"'),
        ("model", '#include "cpu/gemm.h"'),
        ("denoise", '#include "bindings/convert.h"'),
    ],
)
def test_planted_include_is_caught(folder: str, line: str):
    assert include_faults(folder, f"// a file\n{line}\n") != []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("python/llada_rt/params.py", "from .engine import Engine"),
        ("python/llada_rt/planning/canvas.py", "from llada_rt.runtime import stepper"),
        ("python/llada_rt/text/chat/values.py", "from ...cli.console import emit"),
        ("python/llada_rt/planning/scheduler.py", "from .._core import Runtime"),
        ("python/llada_rt/runtime/runner.py", "import torch.nn"),
        ("python/llada_rt/server/app.py", "from tests.golden import load"),
        ("training/sft.py", "import llada_rt"),
        ("training/evaluate.py", "from llada_rt._core import Runtime"),
        ("training/losses.py", "from benchmarks.shapes import SHAPES"),
    ],
)
def test_planted_import_is_caught(path: str, line: str):
    assert import_faults(Path(path), f'"""A file."""\n\n{line}\n') != []


@pytest.mark.parametrize("folder", ["python/llada_rt"])
def test_no_module_imports_itself_by_a_detour(folder: str):
    modules = modules_of(folder)
    modules.pop("llada_rt", None)  # loads its names when they are used
    assert circles(modules) == []


def test_a_planted_circle_is_caught():
    one, two = ("a", "from .two import x"), ("a", "def late():\n    from a import one")
    assert circles({"a": ("a", ""), "a.one": one, "a.two": two}) == ["a.one -> a.two -> a.one"]
    assert circles({"a": ("a", ""), "a.one": one, "a.two": ("a", "import os")}) == []
