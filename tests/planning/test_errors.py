"""Errors: no message of this package holds what a terminal would obey."""

import inspect

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
