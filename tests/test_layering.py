"""The floors of the house, read from #include and import lines: nothing points up, sideways or in a circle."""

import ast
import graphlib
import re
from collections.abc import Mapping
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

# Folder of csrc/cuda -> folders of csrc/cuda that it may include; "" is csrc/cuda itself, which may include them all.
CUDA = {
    "device": {"device"},
    "attention": {"device", "attention", ""},
    "matmul": {"device", "matmul", "cutlass", ""},
    "cutlass": {"device", "matmul", "cutlass"},
}

# Ops of the page (csrc/ops/ops.h) that live in the file of another one, and in which.
SHARED_FILE = {
    "matmul_swiglu": "matmul",
    "rope_kvq": "rope_kv_write",
    "packed_bytes": "pack",
    "packed_row_bytes": "pack",
}
# What the page has beside ops: facts of a table, and the end of a step.
NO_OPS = {"multiplies", "finish"}
ONLY_ON = {"rope_kvq": "cuda", "packed_row_bytes": "cuda"}  # the other tables have none, or one line

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
    {"tuning"},
    {"engine"},
    {"async_engine"},
    {"tools"},
    {"server"},
    {"cli"},
    {"__main__", "__init__"},
]
FLOOR = {place: floor for floor, places in enumerate(PLACES) for place in places}
# Who may name the compiled module.
CORE_USERS = {("runtime", name) for name in ("runner", "records", "device", "footprint")}
FORBIDDEN = {"llada_rt": {"torch", "training", "benchmarks", "tests"}, "training": {"benchmarks", "tests"}}

# Without floors of their own: no import may close a circle, and a file that is run as a command is imported by nobody.
FLAT = ("training", "benchmarks")
ENGINE_USERS = {"evaluation"}  # of training's files, beside its tasks and experiments


def include_faults(folder: str, text: str) -> list[str]:
    """Quoted includes of a file in csrc/<folder> that are not its to use; a name without a folder is a neighbour."""
    names = re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, re.MULTILINE)
    targets = {name: name.split("/")[0] if "/" in name else folder for name in names}
    return [f'{folder}/ includes "{name}"' for name, target in targets.items() if target not in CSRC[folder]]


def cuda_include_faults(folder: str, text: str) -> list[str]:
    """Includes of a file in csrc/cuda/<folder> that are not its to use."""
    targets = re.findall(r'^\s*#\s*include\s+"cuda/(?:(\w+)/)?[^"]+"', text, re.MULTILINE)
    return [f"{folder}/ includes {target or 'csrc/cuda'}" for target in targets if target not in CUDA[folder]]


def ops_of_the_page() -> list[str]:
    page = (ROOT / "csrc/ops/ops.h").read_text()
    return re.findall(r"\(\*(\w+)\)", page[page.index("struct Ops {") :])


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
        allowed = path.stem in ENGINE_USERS or parts[1] in ("tasks", "experiments")
        if parts[1] != "experiments":
            faults += [f"{path} imports {name}" for name in names if name.startswith("training.experiments")]
        faults += [f"{path} imports {n}" for n in public_only if not allowed or re.match(r"llada_rt\.[_a-z]", n)]
        return faults
    place = parts[2]
    for name in names:
        target = name.split(".")[1] if name.startswith("llada_rt.") and name.split(".")[1] in FLOOR else place
        is_core = target == "_core" and parts[2:] not in CORE_USERS
        if FLOOR[target] > FLOOR[place] or is_core:
            faults.append(f"{path} imports {name}")
    return faults


def module_name(path: Path) -> str:
    """The dotted name of a file, its path taken from the repository root."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_graph(files: Mapping[Path, str]) -> dict[str, set[str]]:
    """Module -> modules among `files` that it imports, wherever in the file: in a function, for the type checker."""
    known = {module_name(path) for path in files}
    graph: dict[str, set[str]] = {}
    for path, text in files.items():
        module = module_name(path)
        prefixes = ({name, name.rpartition(".")[0]} for name in imports(text, ".".join(path.parts[:-1])))
        # `from a.b import c` is the module a.b.c if there is one, else a name in a.b.
        graph[module] = {max(known & both, key=len) for both in prefixes if known & both} - {module}
    return graph


def find_circle(files: Mapping[Path, str]) -> list[str]:
    """Modules of a circle, each imported by the next; empty if there is none."""
    try:
        graphlib.TopologicalSorter(module_graph(files)).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def is_command(path: Path, text: str) -> bool:
    """Whether it has a `main` or is guarded as a file that is run."""
    body = ast.parse(text).body
    mains = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    guards = [node for node in body if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)]
    return bool(mains or guards) or path.stem == "__main__"


def imported_commands(files: Mapping[Path, str]) -> list[str]:
    commands = {module_name(path) for path, text in files.items() if is_command(path, text)}
    return [f"{module} imports {name}" for module, names in module_graph(files).items() for name in names & commands]


def flat_files() -> dict[Path, str]:
    paths = [path for folder in FLAT for path in (ROOT / folder).rglob("*.py")]
    return {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in paths}


def package_files() -> dict[Path, str]:
    """The files of llada_rt, but the one that loads public names when they are used."""
    root = ROOT / "python"
    paths = [path for path in (root / "llada_rt").rglob("*.py") if path != root / "llada_rt" / "__init__.py"]
    return {path.relative_to(root): path.read_text(encoding="utf-8") for path in paths}


def sources(folder: str, *patterns: str) -> list:
    paths = sorted(path for pattern in patterns for path in (ROOT / folder).rglob(pattern))
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in paths]


@pytest.mark.parametrize("path", sources("csrc", "*.h", "*.cc", "*.cu", "*.cuh"))
def test_includes_point_down(path: Path):
    folder = path.relative_to(ROOT / "csrc").parts[0]
    assert folder in CSRC, f"csrc/{folder} has no floor"
    assert include_faults(folder, path.read_text()) == []


def included(name: str) -> set[str]:
    """All that a file of csrc includes, by itself or through others, by the name after csrc/."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        text = (ROOT / "csrc" / waiting.pop()).read_text()
        new = set(re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, re.MULTILINE)) - found
        found |= new
        waiting += new
    return found


def test_a_plan_knows_the_batch_and_nothing_else_of_the_model():
    assert {name for name in included("denoise/plan.h") if name.startswith("model/")} == {"model/batch.h"}


def test_families_are_data():
    """They know the configuration and the records; only the configuration knows them."""
    users = {path.relative_to(ROOT / "csrc") for path in (ROOT / "csrc").rglob("*.[hc]*") if path.is_file()}
    naming = {str(path) for path in users if '"model/families/' in (ROOT / "csrc" / path).read_text()}
    assert {name for name in naming if not name.startswith("model/families/")} == {"model/config.h"}
    for path in (ROOT / "csrc/model/families").glob("*"):
        known = {"model/config.h", "model/config_fields.h", "model/tensor_records.h", "model/families/registry.h"}
        own = set(re.findall(r'#include "(model/[^"]+)"', path.read_text()))
        assert own <= known, f"{path.name} includes {own - known}"


@pytest.mark.parametrize(
    "path", [each for folder in CUDA for each in sources(f"csrc/cuda/{folder}", "*.h", "*.cc", "*.cu", "*.cuh")]
)
def test_folders_of_the_cuda_backend_point_down(path: Path):
    folder = path.relative_to(ROOT / "csrc/cuda").parts[0]
    assert cuda_include_faults(folder, path.read_text()) == []


@pytest.mark.parametrize(
    ("op", "floor"),
    [
        (op, floor)
        for op in ops_of_the_page()
        for floor in ("cpu", "cuda")
        if op not in NO_OPS and ONLY_ON.get(op, floor) == floor
    ],
)
def test_an_op_is_in_the_file_of_its_name(op: str, floor: str):
    name = SHARED_FILE.get(op, op)
    paths = list((ROOT / "csrc" / floor).rglob(f"{name}.c[uc]"))
    assert len(paths) == 1
    assert re.search(rf"^\S+ {op}\(", paths[0].read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", sources("python", "*.py") + sources("training", "*.py"))
def test_imports_point_down(path: Path):
    relative = path.relative_to(ROOT)
    if relative.parts[0] == "python":
        assert relative.with_suffix("").parts[2] in FLOOR, f"{relative} has no floor"
    assert import_faults(relative, path.read_text()) == []


def test_no_circle_and_no_imported_command():
    files = flat_files()
    assert {"training.tokenization", "training.data"} <= module_graph(files)["training.tasks.verse_batches"]
    assert find_circle(files) == []
    assert imported_commands(files) == []


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("core", '#include "ops/ops.h"'),
        ("cpu", '#  include "cuda/device.cuh"'),
        ("model", '#include "cpu/matmul.h"'),
        ("denoise", '#include "bindings/convert.h"'),
    ],
)
def test_planted_include_is_caught(folder: str, line: str):
    assert include_faults(folder, f"// a file\n{line}\n") != []


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("device", '#include "cuda/kernels.h"'),
        ("attention", '#include "cuda/matmul/tile.cuh"'),
        ("cutlass", '#include "cuda/pack.h"'),
    ],
)
def test_planted_include_within_the_cuda_backend_is_caught(folder: str, line: str):
    assert cuda_include_faults(folder, f"// a file\n{line}\n") != []


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
        ("training/evaluation.py", "from llada_rt._core import Runtime"),
        ("training/trainer.py", "from training.experiments import pair"),
        ("training/losses.py", "from benchmarks.shapes import SHAPES"),
    ],
)
def test_planted_import_is_caught(path: str, line: str):
    assert import_faults(Path(path), f'"""A file."""\n\n{line}\n') != []


def test_the_package_has_no_circle():
    assert find_circle(package_files()) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("training/tokenization.py", "from training.rows import RowConfig"),
        ("training/data.py", "def main():\n    from training.tasks import verse_batches"),
        ("training/vocabulary.py", "if TYPE_CHECKING:\n    from .recipe import RunConfig"),
        ("training/tasks/__init__.py", "from .items import Item\nfrom . import verse_batches, verse_run"),
        ("benchmarks/harness.py", "import benchmarks.cli"),
        ("llada_rt/text/transcript.py", "def late():\n    from .tokenizer import Tokenizer"),
    ],
)
def test_planted_circle_is_caught(path: str, line: str):
    files = flat_files() | package_files()
    files[Path(path)] += f"\n{line}\n"
    assert module_name(Path(path)) in find_circle(files)


@pytest.mark.parametrize(
    ("path", "line", "command"),
    [
        ("training/experiments/pair.py", "from training.evaluate import run", "training.evaluate"),
        ("training/corpora.py", "from training.tasks.verse_build import rebuild", "training.tasks.verse_build"),
        ("benchmarks/readme_section.py", "def f():\n    from benchmarks import record", "benchmarks.record"),
        ("benchmarks/cli.py", "from . import __main__", "benchmarks.__main__"),
    ],
)
def test_planted_import_of_a_command_is_caught(path: str, line: str, command: str):
    files = flat_files()
    files[Path(path)] += f"\n{line}\n"
    assert imported_commands(files) == [f"{module_name(Path(path))} imports {command}"]
