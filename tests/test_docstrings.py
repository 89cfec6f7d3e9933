"""What `help` tells of the public names: each argument, each attribute, and no other; what comes back."""

import dataclasses
import inspect
import re
import subprocess
import sys
import typing

import pytest

import llada_rt
from llada_rt.async_engine import EventStream
from llada_rt.json_values import JsonValue

PUBLIC = [(name, getattr(llada_rt, name)) for name in llada_rt.__all__]
CLASSES = [(name, kind) for name, kind in PUBLIC if inspect.isclass(kind) and not typing.is_typeddict(kind)]
# With words, not with a section.
BEGINS = re.compile(r"(?!(?:Args|Attributes|Returns|Raises):$)[A-Z`].*\S", re.MULTILINE)


def section(doc: str, name: str) -> str | None:
    """The lines of a section; None: there is no such section."""
    found = re.search(rf"^{name}:\n((?: .*\n)+)", doc + "\n", re.MULTILINE)
    return found[1] if found else None


def entries(doc: str, name: str) -> list[str]:
    """The names that a section explains: `name: ...`, `name (type): ...`, `**name: ...`."""
    return re.findall(r"^    (\*{0,2}\w+)(?: \(.+?\))?: \S", section(doc, name) or "", re.MULTILINE)


def arguments(call: object) -> list[str]:
    """Parameters as a docstring names them."""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    parameters = inspect.signature(call).parameters.values()
    return [stars.get(each.kind, "") + each.name for each in parameters if each.name not in ("self", "cls")]


def faults(call: object) -> list[str]:
    """What is wrong with the docstring of a method or function."""
    doc = inspect.getdoc(call) or ""
    said, wanted = entries(doc, "Args"), arguments(call)
    found = [] if said == wanted else [f"Args: expected {wanted}, got {said}"]
    gives = inspect.signature(call).return_annotation not in (None, "None", inspect.Signature.empty)
    if gives and section(doc, "Returns") is None:
        found.append("expected the section Returns, got none")
    if not BEGINS.match(doc):
        found.append("expected a sentence first, got none")
    return found


def members(kind: type) -> list[tuple[str, object]]:
    """Public methods and properties of a class that this package wrote, its bases' too."""
    found = []
    for name, member in inspect.getmembers(kind):
        owner = member.fget if isinstance(member, property) else member
        if not name.startswith("_") and str(getattr(owner, "__module__", "")).startswith("llada_rt"):
            found.append((name, member))
    return found


METHODS = {
    f"{name}.{method}": member
    for name, kind in [*CLASSES, ("EventStream", EventStream)]
    for method, member in members(kind)
    if callable(member)
}
FUNCTIONS = {name: value for name, value in PUBLIC if inspect.isfunction(value)}
CONSTRUCTORS = {name: kind for name, kind in CLASSES if "__init__" in vars(kind) and not issubclass(kind, JsonValue)}
VALUES = {name: kind for name, kind in CLASSES if issubclass(kind, JsonValue)}
PROPERTIES = {
    f"{name}.{attribute}": member
    for name, kind in CLASSES
    for attribute, member in members(kind)
    if isinstance(member, property)
}


def test_these_are_the_public_names():
    assert {"Engine.generate", "Engine.score", "AsyncEngine.stream", "SamplingParams.over", "EventStream.start"} <= set(
        METHODS
    )
    assert set(CONSTRUCTORS) == {"AsyncEngine", "Engine", "EngineConfig", "Hole", "LladaRtError", "SamplingParams"}
    assert set(FUNCTIONS) == {"build_info"}
    assert {"Engine.vocab_size", "RequestOutput.usage", "Hole.rule"} <= set(PROPERTIES)
    assert len(VALUES) == 16


@pytest.mark.parametrize("name", [*METHODS, *FUNCTIONS])
def test_every_argument_is_told(name):
    assert faults({**METHODS, **FUNCTIONS}[name]) == []


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_every_argument_of_a_constructor_is_told(name):
    kind = CONSTRUCTORS[name]
    assert entries(inspect.getdoc(kind), "Args") == arguments(kind)
    assert kind is llada_rt.LladaRtError or section(inspect.getdoc(kind), "Raises")


@pytest.mark.parametrize("name", VALUES)
def test_every_attribute_is_told(name):
    kind = VALUES[name]
    assert entries(inspect.getdoc(kind), "Attributes") == [spec.name for spec in dataclasses.fields(kind)]


@pytest.mark.parametrize("name", PROPERTIES)
def test_every_property_is_told(name):
    assert BEGINS.match(inspect.getdoc(PROPERTIES[name]) or "")


@pytest.mark.parametrize("name", [name for name, _ in CLASSES])
def test_every_class_has_a_docstring_of_its_own(name):
    assert BEGINS.match(vars(dict(CLASSES)[name])["__doc__"] or "")


def test_the_errors_that_are_told_are_errors_of_this_package():
    told = {
        word
        for call in [*METHODS.values(), *FUNCTIONS.values(), *CONSTRUCTORS.values()]
        for word in entries(inspect.getdoc(call) or "", "Raises")
    }
    assert len(told) > 10
    assert told <= set(llada_rt.__all__)


def test_a_python_without_docstrings_runs():
    script = "from llada_rt import AsyncEngine; print(AsyncEngine.generate.__doc__)"
    done = subprocess.run([sys.executable, "-OO", "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("None\n", "")


GOOD = """Do what is asked.

    Args:
        first: One.
            second: not an argument, but more of the first.
        rest (tuple[int, ...]): Others.
        **options: The rest.

    Returns:
        A number.
    """


def asked(first: int, rest: tuple[int, ...] = (), **options: int) -> int:
    return first + len(rest) + len(options)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("", "", []),
        ("        first: One.\n", "", ["Args"]),
        ("        first: One.", "        fist: One.", ["Args"]),
        ("        **options: The rest.", "        **options: The rest.\n        more: None such.", ["Args"]),
        ("        **options", "        options", ["Args"]),
        ("        first: One.", "        first:", ["Args"]),
        ("    Returns:\n        A number.", "", ["Returns"]),
        ("Do what is asked.", "", ["sentence"]),
    ],
)
def test_what_is_missing_or_too_much_is_found(old, new, words):
    asked.__doc__ = GOOD.replace(old, new) if old else GOOD
    found = faults(asked)
    assert [word for word in ("Args", "Returns", "sentence") if any(word in fault for fault in found)] == words
