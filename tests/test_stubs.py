"""The stubs of the compiled modules say what the modules have: names, parameters, defaults, plain types."""

import ast
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from llada_rt import _core

CORE_STUB = (Path(__file__).parents[1] / "python/llada_rt/_core.pyi").read_text()
# What pybind11 writes for a number that it takes.
TAKEN_AS = {
    "typing.SupportsInt | typing.SupportsIndex": "int",
    "typing.SupportsFloat | typing.SupportsIndex": "float",
}
PLAIN = {"int", "float", "bool", "str", "None"}
OF_EVERY_CLASS = {"__module__", "__doc__", "_pybind11_conduit_v1_"}


def parameters(function: ast.FunctionDef) -> dict[str, tuple[str, bool, str]]:
    """Name -> (kind, whether it has a default, type), without self."""
    of = function.args
    plain = [*of.posonlyargs, *of.args]
    defaults = [False] * (len(plain) - len(of.defaults)) + [True] * len(of.defaults)
    found = {a.arg: ("plain", has, type_of(a.annotation)) for a, has in zip(plain, defaults, strict=True)}
    for argument, default in zip(of.kwonlyargs, of.kw_defaults, strict=True):
        found[argument.arg] = ("keyword", default is not None, type_of(argument.annotation))
    found.pop("self", None)
    return found


def type_of(annotation: ast.expr | None) -> str:
    text = "" if annotation is None else ast.unparse(annotation)
    return TAKEN_AS.get(text, text)


def documented(function: object, name: str) -> ast.FunctionDef:
    """The signature that pybind11 wrote into the first line of a docstring."""
    line = (function.__doc__ or "").splitlines()[0]
    assert line.startswith(f"{name}("), f"{name}: expected a signature in its docstring, got {line!r}"
    (parsed,) = ast.parse(f"def {line}: ...").body
    assert isinstance(parsed, ast.FunctionDef)
    return parsed


def types_differ(first: str, second: str) -> bool:
    return first in PLAIN and second in PLAIN and first != second


def signature_faults(where: str, stub: list[ast.FunctionDef], made: ast.FunctionDef) -> list[str]:
    """The faults of one function: an overload may leave parameters out, all overloads together may not."""
    has = parameters(made)
    seen: set[str] = set()
    faults = []
    for each in stub:
        said = parameters(each)
        seen |= set(said)
        if len(stub) == 1 and [(n, *k[:2]) for n, k in said.items()] != [(n, *k[:2]) for n, k in has.items()]:
            faults.append(f"{where}: the stub has {said}, the module {has}")
        plain = [name for name, (kind, *_) in said.items() if kind == "plain"]
        if plain != list(has)[: len(plain)]:
            faults.append(f"{where}: the stub takes {plain} by position, the module {list(has)}")
        if missing := {name for name, (_, default, _) in has.items() if not default} - set(said):
            faults.append(f"{where}: an overload lacks {sorted(missing)}")
        faults += [
            f"{where}: {name} is {said[name][2]} in the stub, {has[name][2]} in the module"
            for name in set(said) & set(has)
            if types_differ(said[name][2], has[name][2])
        ]
        if types_differ(type_of(each.returns), type_of(made.returns)):
            faults.append(f"{where}: returns {type_of(each.returns)}, the module {type_of(made.returns)}")
    if seen != set(has):
        faults.append(f"{where}: the stub names {sorted(seen)}, the module {sorted(has)}")
    return faults


def members(body: list[ast.stmt]) -> dict[str, list[ast.stmt]]:
    """What a stub defines in a module or a class, by name."""
    found: dict[str, list[ast.stmt]] = {}
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.setdefault(node.target.id, []).append(node)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.setdefault(node.name, []).append(node)
    return found


def faults_of(where: str, body: list[ast.stmt], made: dict[str, object]) -> list[str]:
    """Differences between what a stub defines and what a module or a class has."""
    said = members(body)
    faults = [f"{where}.{name}: only in the stub" for name in said.keys() - made.keys()]
    faults += [f"{where}.{name}: not in the stub" for name in made.keys() - said.keys()]
    for name in said.keys() & made.keys():
        nodes, value = said[name], made[name]
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        if isinstance(nodes[0], ast.ClassDef):
            is_class = isinstance(value, type)
            faults += faults_of(f"{where}.{name}", nodes[0].body, own(value)) if is_class else [f"{name}: no class"]
        elif bool(functions) != callable(value):
            faults.append(f"{where}.{name}: a function on one side only")
        elif functions:
            faults += signature_faults(f"{where}.{name}", functions, documented(value, name))
    return faults


def own(value: type) -> dict[str, object]:
    """What a class has beyond any other; pybind11 gives `__init__` also to one that Python cannot make."""
    found = {name: member for name, member in vars(value).items() if name not in OF_EVERY_CLASS}
    if not (getattr(value.__init__, "__doc__", None) or "").startswith("__init__("):
        found.pop("__init__", None)
    return found


def stub_faults(text: str, module: ModuleType) -> list[str]:
    made = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return faults_of(module.__name__, ast.parse(text).body, made)


@pytest.mark.parametrize("name", ["_core", "_cuda"])
def test_a_stub_says_what_its_module_has(name: str):
    if importlib.util.find_spec(f"llada_rt.{name}") is None:
        pytest.skip(f"this build has no {name}")
    text = (Path(__file__).parents[1] / f"python/llada_rt/{name}.pyi").read_text()
    assert stub_faults(text, importlib.import_module(f"llada_rt.{name}")) == []


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("def default_num_threads() -> int: ...\n", "", "default_num_threads: not in the stub"),
        ("def tables() ->", "def all_tables() ->", "all_tables: only in the stub"),
        ("def tables() ->", "def tables(names: str) ->", "tables: the stub names ['names'], the module []"),
        ("def default_num_threads() -> int", "def default_num_threads() -> str", "returns str, the module int"),
        ("def close_slot(self, slot: int)", "def close_slot(self, index: int)", "by position, the module ['slot']"),
        ("def close_slot(self, slot: int)", "def close_slot(self, slot: int = ...)", "close_slot: the stub has"),
        ("def close_slot(self, slot: int)", "def close_slot(self, slot: float)", "slot is float in the stub, int in"),
        ("    num_parameters: int\n", "", "num_parameters: not in the stub"),
        ("    num_parameters: int\n", "    def num_parameters(self) -> int: ...\n", "a function on one side only"),
        ("alternatives: Literal[True],", "choices: Literal[True],", "denoise: the stub names"),
        (" max_steps: int, *, max_seconds", " *, max_seconds", "an overload lacks ['max_steps']"),
    ],
)
def test_planted_differences_are_told(right: str, wrong: str, told: str):
    assert right in CORE_STUB
    assert any(told in fault for fault in stub_faults(CORE_STUB.replace(right, wrong, 1), _core))
