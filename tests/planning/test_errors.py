"""Errors: no message holds what a terminal would obey, and all say a wrong value in the same words."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from llada_rt import errors
from llada_rt.errors import LladaRtError

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, LladaRtError)]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_terminal_obeys_is_written_out(kind):
    error = kind("a\x1b[31m\nb\u202e", hint="\x07c\x9b")
    assert str(error) == "a\\x1b[31m\nb\\u202e (\\x07c\\x9b)"
    assert error.message == "a\\x1b[31m\nb\\u202e"
    assert "\x1b" not in repr(error)
    assert str(error.within("here\x00")) == "here\\x00: a\\x1b[31m\nb\\u202e (\\x07c\\x9b)"


ROOT = Path(__file__).resolve().parents[2]
SOURCES = [path for folder in ("python", "training", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
# "expected ..., got ..." after the name and a colon; not these:
OTHER_WORDS = re.compile(r"\breceived\b|; got \b|[a-z_}] expected [^,]*, got\b")


def odd_messages(source: str) -> list[str]:
    """Texts after `raise` that say a wrong value in other words."""
    raised = (node.exc for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Raise) and node.exc is not None)
    texts = (
        "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        if isinstance(node, ast.JoinedStr)
        else str(node.value)
        for error in raised
        for node in ast.walk(error)
        if isinstance(node, (ast.JoinedStr, ast.Constant))
    )
    return [text for text in texts if OTHER_WORDS.search(text)]


def test_a_wrong_value_is_told_in_the_same_words():
    assert len(SOURCES) > 100
    assert not [(path.name, text) for path in SOURCES for text in odd_messages(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("text", ["x: expected 1, received 2", "x expected 1, got 2", "x: expected 1; got 2"])
def test_other_words_are_found(text):
    assert odd_messages(f"raise ValueError(f'{text}' 'hint')")
    assert not odd_messages("raise ValueError(f'x: expected 1, got {y}')")
    assert not odd_messages(f"return {text!r}")
