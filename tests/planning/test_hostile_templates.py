"""Whatever a chat template does, it ends within a second and 64 MB, in a text or a typed error, and reaches nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llada_rt.text.chat_template import ChatTemplate
from tests.planning import hostile_templates
from tests.planning.hostile_templates import ALL, ESCAPES

MAX_SECONDS = 1.0  # of this thread's own work: others may hold the cores
MAX_MB = 64.0

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="each template is rendered in a forked process")


@pytest.fixture(scope="module")
def results() -> dict[str, dict]:
    root = Path(hostile_templates.__file__).resolve().parents[2]
    path = os.pathsep.join([str(root / "python"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, hostile_templates.__file__],
        input=json.dumps([source for _, source in ALL]),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    lines = done.stdout.splitlines()
    return {name: json.loads(line) for (name, _), line in zip(ALL, lines, strict=True)}


def test_there_are_many_of_them():
    assert len({source for _, source in ALL}) == len(ALL) >= 250


@pytest.mark.parametrize("name", [name for name, _ in ALL])
def test_a_hostile_template_ends_soon_and_small(results, name):
    result = results[name]
    assert result["outcome"] in ("text", "error"), result
    assert result["cpu"] < MAX_SECONDS, result
    assert result["mb"] is None or result["mb"] < MAX_MB, result
    assert len(result["shown"]) < 1000


@pytest.mark.parametrize("index", range(len(ESCAPES)))
def test_nothing_of_python_is_reached(results, index):
    result = results[f"escapes{index}"]
    assert result["outcome"] == "error" or not any(mark in result["shown"] for mark in ("<", "class", "uid=")), result


def test_an_ordinary_template_is_far_from_the_limits():
    """A thousand messages of a thousand characters, each cut, stripped and joined."""
    source = (
        "{% for m in messages %}{% set c = m.content.split('</think>')[-1].strip() %}"
        "{{ '<|' + m.role + '|>' + c + '\n' }}{% endfor %}"
    )
    messages = [{"role": "user", "content": "春眠不觉晓" * 200}] * 1000
    assert ChatTemplate(source).render(messages).count("<|user|>") == 1000
