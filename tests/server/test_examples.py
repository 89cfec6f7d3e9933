"""The programs of examples/ run against a server of the demo model, and so does every curl line of the documents."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llada_rt.config import DEMO_DIR
from llada_rt.server.settings import SETTINGS_FIELDS
from tests.documents import read, split
from tests.server.running import ENVIRONMENT, running

ROOT = Path(__file__).resolve().parents[2]
PAGE = read("docs/serving.md")
needs_demo = pytest.mark.skipif(not (DEMO_DIR / "config.json").is_file(), reason="the demo model is not in this tree")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this system")


@pytest.fixture(scope="module")
def demo():
    with running(None, engine={"threads": 2}) as server:
        yield server


def said(command):
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_demo
def test_openai_client(demo):
    lines = said([sys.executable, str(ROOT / "examples/openai_client.py"), demo.url]).splitlines()
    assert lines[0] == "answer: 疑是地上霜 5 tokens"
    assert lines[1].startswith("fast: 疑是地上霜 ")
    assert lines[2].replace("|", "") == "stream: 白日依山尽，黄河入海流。欲穷千里目，更上一层楼。"
    assert lines[2].count("|") > 3
    assert lines[3] in ("json: {'known': True}", "json: {'known': False}")
    assert lines[4].startswith("refused: tools: ")


@needs_demo
def test_openai_async(demo):
    expected = ["床前明月光 -> 疑是地上霜", "白日依山尽 -> 黄河入海流", "春眠不觉晓 -> 处处闻啼鸟"]
    assert said([sys.executable, str(ROOT / "examples/openai_async.py"), demo.url]).splitlines()[:3] == expected


@needs_demo
def test_langchain_chat(demo):
    lines = said([sys.executable, str(ROOT / "examples/langchain_chat.py"), demo.url]).splitlines()
    assert lines[0] == "invoke: 疑是地上霜"
    assert lines[1].replace("|", "") == "stream: 疑是地上霜"
    assert lines[2] == "batch: 疑是地上霜 黄河入海流"
    assert lines[3] in ("form: known=True", "form: known=False")
    assert lines[4] == "responses: 疑是地上霜"


@needs_demo
def test_watch_steps(demo):
    lines = said([sys.executable, str(ROOT / "examples/watch_steps.py"), demo.url]).splitlines()
    assert [line.count("░") for line in lines] == list(range(7, -1, -1))
    assert "疑是地上霜" in lines[-1]


@needs_demo
def test_fill_and_edit(demo):
    lines = said([sys.executable, str(ROOT / "examples/fill_and_edit.py"), demo.url]).splitlines()
    assert lines[0] == "filled: 白日依山尽，黄河入海流。"
    assert lines[1].startswith("edited: 白日依山尽，黄河入海流。 ")
    likely, unlikely = (float(line.split()[3]) for line in lines[2:])
    assert likely > unlikely


@needs_demo
@needs_curl
def test_ask(demo):
    parts = said(["sh", str(ROOT / "examples/ask.sh"), demo.url])
    assert parts.count("疑是地上霜") == 2
    assert "data: [DONE]" in parts
    assert "春眠不觉晓，处处闻啼鸟。" in parts


def curls():
    blocks = [block for block in split(PAGE)[0] if block.language == "bash"]
    lines = [line for block in blocks for line in block.text.splitlines() if line.startswith("curl ")]
    return [pytest.param(line.partition("   #")[0], id=line.split()[1].split("8000")[1]) for line in lines]


@needs_demo
@needs_curl
@pytest.mark.parametrize("line", curls())
def test_every_curl_line_of_the_page_answers(demo, line):
    words = shlex.split(line.replace("$H", "content-type: application/json"))
    words = [word.replace("http://127.0.0.1:8000", demo.url) for word in words]
    text = said([*words, "--silent", "--show-error", "--fail-with-body"])
    if "stream" in line:
        assert text.endswith("data: [DONE]\n\n")
    elif not line.endswith("/metrics"):
        assert json.loads(text).get("error") is None


def test_the_page_tells_of_every_path(demo):
    app = demo.server.config.app._app
    paths = {route.path for route in app.routes if not route.path.startswith("/page/")}
    told = {line.values[0].split()[1].split("8000")[1] for line in curls()}
    assert paths - {"/"} <= {path.replace("llada-rt-demo", "{name:path}") for path in told}


def test_what_documents_name_is_there(demo):
    """Metrics and flags."""
    metrics = demo.service.metrics.text().decode()
    for line in PAGE.splitlines():
        if line.startswith("| `") and "_" in line.split("|")[1]:
            for name in line.split("|")[1].replace("`", "").split(","):
                assert f"# HELP llada_rt_{name.strip()} " in metrics or f"llada_rt_{name.strip()}{{" in metrics, name
    for page in (PAGE, read("docs/security.md")):
        for word in page.replace("`", " ").replace(",", " ").split():
            if word.startswith("--") and word[2:3].isalpha():
                name = word[2:].rstrip(".;)").replace("-", "_")
                assert name in {*SETTINGS_FIELDS, "config", "log_level", "max_num_queued_reqs", "help"}, word
