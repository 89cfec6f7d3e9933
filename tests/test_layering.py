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

# Python module -> its floor; a module may import from lower floors and from its own package. Plain values (the two
# lowest floors) may know each other.
FLOORS = [
    {"errors", "excerpt", "json_values", "log", "_core"},
    {"params", "config", "plan", "device", "chat_template", "memory", "transcript", "foreign", "logits"}
    | {"option_types", "option_checks", "precedence", "characters", "expression"}
    | {
        f"chat_{part}"
        for part in ("marks", "budget", "types", "text", "values", "numbers", "sequences", "tests", "filters")
    }
    | {"chat_interpreter", "chat_messages"},
    {"grammar", "audit"},
    {"canvas", "model_files", "template", "constraint", "detokenizer", "plain_text", "tokenizer_checks"},
    {"decoders", "caches", "tokenizer", "checkpoint"},
    {"scheduler", "quantize", "adapter"},
    {"requests", "outputs", "footprint"},
    {"score", "runner", "logprobs"},
    {"jobs", "inspection"},
    {"stepper", "convert"},
    {"dispatcher"},
    {"intake"},
    {"engine"},
    {"async_engine"},
    {"animate", "options", "console"},
    {"verification", "batch_input"},
    {"batch"},
    {"reports"},
    {"model_commands", "bench_command", "batch_files"},
    {"request_commands"},
    {"server", "cli", "lm_eval_adapter"},
    {"__main__", "__init__"},
]
FLOOR = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
CORE_USERS = {"runner", "device"}  # who may name the compiled module
FORBIDDEN = {"llada_rt": {"torch", "training", "benchmarks", "tests"}, "training": {"benchmarks", "tests"}}


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
        allowed = path.stem in {"evaluate", "reversal"} or "tasks" in parts
        faults += [f"{path} imports {n}" for n in public_only if not allowed or re.match(r"llada_rt\.[_a-z]", n)]
        return faults
    module = parts[2]
    for name in names:
        target = name.split(".")[1] if name.startswith("llada_rt.") and name.split(".")[1] in FLOOR else module
        sideways = target != module and FLOOR[target] == FLOOR[module] and FLOOR[module] > 1
        if FLOOR[target] > FLOOR[module] or sideways or (target == "_core" and module not in CORE_USERS):
            faults.append(f"{path} imports {name}")
    return faults


def sources(folder: str, *patterns: str) -> list:
    paths = sorted(path for pattern in patterns for path in (ROOT / folder).rglob(pattern))
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in paths]


@pytest.mark.parametrize("path", sources("csrc", "*.h", "*.cc", "*.cu", "*.cuh"))
def test_includes_point_down(path: Path):
    folder = path.relative_to(ROOT / "csrc").parts[0]
    assert folder in CSRC, f"csrc/{folder} has no floor"
    assert include_faults(folder, path.read_text()) == []


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
        ("python/llada_rt/canvas.py", "from llada_rt import scheduler"),
        ("python/llada_rt/scheduler.py", "from ._core import Runtime"),
        ("python/llada_rt/runner.py", "import torch.nn"),
        ("python/llada_rt/server/app.py", "from tests.golden import load"),
        ("training/sft.py", "import llada_rt"),
        ("training/evaluate.py", "from llada_rt._core import Runtime"),
        ("training/losses.py", "from benchmarks.shapes import SHAPES"),
    ],
)
def test_planted_import_is_caught(path: str, line: str):
    assert import_faults(Path(path), f'"""A file."""\n\n{line}\n') != []
