"""What is written on the command line in place of Python values, and what the animation draws."""

import pytest

from llada_rt.cli.animate import CanvasView, printable, style_of
from llada_rt.cli.options import params_over, parse_ids, parse_template
from llada_rt.errors import InvalidRequestError
from llada_rt.outputs import StepEvent
from llada_rt.params import SamplingParams


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("床前__光", ["床前", 2, "光"]),
        ("__", [2]),
        ("a[MASK:12]b", ["a", 12, "b"]),
        ("a[MASK]b", ["a", 1, "b"]),
        ("_[MASK:2]_", [4]),
        ("a\\_b\\[MASK]", ["a_b[MASK]"]),
        ("a\\\\_", ["a\\", 1]),
        ("a\\nb", ["a\\nb"]),
        ("one\n_\ntwo", ["one\n", 1, "\ntwo"]),
        ("[MASK:0]x", [0, "x"]),
        ("[MASK:x]", ["[MASK:x]"]),
        ("abc", ["abc"]),
        ("", []),
    ],
)
def test_templates(text, segments):
    assert parse_template(text) == segments


def test_ids():
    assert parse_ids("3, 14 15,\n92") == [3, 14, 15, 92]
    assert parse_ids("") == []
    for bad in ("1,x", "1.5", "0x3", "1" * 30):
        with pytest.raises(InvalidRequestError, match="token ids"):
            parse_ids(bad)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"gen_length": 16, "steps": 16, "block_length": 16}),
        ({"gen_length": 32}, {"gen_length": 32, "steps": None, "block_length": None}),
        ({"gen_length": 32, "steps": 8}, {"gen_length": 32, "steps": 8, "block_length": None}),
        ({"gen_length": 16}, {"steps": 16, "block_length": 16}),
        ({"preset": "fast"}, {"block_length": 16, "threshold": 0.9, "cache": "dual", "gen_length": 16}),
    ],
)
def test_flags_over_defaults(given, expected):
    params = params_over(SamplingParams(gen_length=16, steps=16, block_length=16), given)
    assert {name: getattr(params, name) for name in expected} == expected


def test_text_cannot_command_the_terminal():
    assert printable("a\x1b[31mb\x07\r\n\tc\u202ed\x9b") == "a\ufffd[31mb\ufffd\ufffd\n\tcd\ufffd"
    assert printable("床前明月光，é👩\u200d🚀") == "床前明月光，é👩\u200d🚀"


@pytest.mark.parametrize(
    ("confidence", "style"), [(None, ""), (1.0, "green"), (0.9, "green"), (0.6, "yellow"), (0.2, "red"), (-3.0, "red")]
)
def test_colours(confidence, style):
    assert style_of(confidence) == style


def test_a_frame():
    view = CanvasView(None, mask_id=9)
    event = StepEvent("r", 0, 0, 1, [(2, 5, 0.95)], "", "", [1, 9, 5, 9], 1, False, None)
    frame = view.show(event)
    assert frame.plain == "░5 ░"
    assert any("green" in str(span.style) for span in frame.spans)
