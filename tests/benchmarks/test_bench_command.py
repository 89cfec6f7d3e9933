"""llada-rt bench as a user types it."""

import json
import re
import subprocess
import sys
import time

import pytest

from benchmarks import engine_system, fixed_work, matched_quality
from benchmarks.report import load_report
from llada_rt.cli import app as cli
from llada_rt.cli import bench_command
from tests.data.make_goldens import CHECKPOINT
from tests.engine.models import write_folder

TINY = ["-m", str(CHECKPOINT), "--gen-length", "16", "--prompt-length", "8", "--threads", "1"]
FEW = ["--questions", "3", "--repeats", "2"]


@pytest.fixture
def run(capsys):
    """(exit code, stdout, stderr) of a command line."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as leaving:
            cli.main(["bench", *arguments])
        out, err = capsys.readouterr()
        return leaving.value.code, out, err

    return call


def test_latency_of_a_model_folder(run, tmp_path):
    code, out, err = run("latency", *TINY, *FEW, "--preset", "fast", "--output", str(tmp_path))
    assert code == 0, err
    assert "Latency" in out
    assert "commit" in out
    report = load_report(tmp_path / "latency.json")
    (row,) = report.rows
    assert (row["questions"], row["batch"], row["rounds"], row["check"]) == (3, 1, 2, None)
    assert row["tokens"] > 0
    assert row["setting"]["preset"] == "fast"
    assert report.environment["threads"] == 1
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 1
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "latency.html").read_text()
    assert "<svg" in page
    # It needs nothing from anywhere: what looks like an address are names of XML's vocabularies.
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert "@import" not in page


def test_a_model_folder_s_own_defaults(run, tmp_path):
    generation = {"llada_rt": {"gen_length": 12, "preset": "quality", "block_length": 4}}
    folder = write_folder(tmp_path / "model", generation=generation)
    code, out, err = run("latency", "-m", str(folder), "--questions", "1", "--repeats", "1", "--threads", "1", "--json")
    assert code == 0, err
    (row,) = json.loads(out)["rows"]
    assert row["written_tokens"] == 12
    assert (row["setting"]["preset"], row["setting"]["block_length"]) == ("quality", 4)
    code, out, _ = run("latency", "-m", str(tmp_path / "none"))
    assert code == 3


def test_throughput_by_batch(run):
    code, out, err = run("throughput", *TINY, "--batches", "1,2", "--repeats", "1", "--json")
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert [row["batch"] for row in rows] == [1, 2]
    assert rows[0]["tokens"] == rows[1]["tokens"]


def test_a_slower_build_is_caught(run, tmp_path, monkeypatch):
    assert run("latency", *TINY, *FEW, "--output", str(tmp_path))[0] == 0
    earlier = ["--baseline", str(tmp_path / "latency.json")]
    assert run("latency", *TINY, *FEW, *earlier, "--allow", "10")[0] == 0
    answer = engine_system.EngineSystem.answer
    monkeypatch.setattr(
        engine_system.EngineSystem, "answer", lambda system, asked: (time.sleep(0.15), answer(system, asked))[1]
    )
    code, out, _ = run("latency", *TINY, *FEW, *earlier, "--allow", "10")
    assert code == 7
    assert "SLOWER" in out


def test_requests_of_a_trace(run, tmp_path):
    trace = tmp_path / "trace.jsonl"
    lines = [{"time": 0.02 * i, "prompt_tokens": 4 + i, "gen_length": 8 + 4 * i} for i in range(6)]
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = ["serve-trace", *TINY, "--preset", "quality", "--trace", str(trace), "--output", str(tmp_path)]
    code, out, err = run(*options)
    assert code == 0, err
    (row,) = load_report(tmp_path / "serve-trace.json").rows
    assert (row["questions"], row["written_tokens"], row["check"]) == (
        6,
        sum(line["gen_length"] for line in lines),
        None,
    )
    assert 0 < row["first_text_s"]["p50"] <= row["latency_s"]["p50"] <= row["latency_s"]["p99"]
    assert len(row["total_waits_s"]) == 6
    assert "6 requests in 0.1 s" in out


def test_poisson_arrivals(run):
    code, out, err = run("serve-trace", *TINY, "--requests", "5", "--rate", "200", "--json", "--preset", "quality")
    assert code == 0, err
    assert json.loads(out)["rows"][0]["questions"] == 5


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[1]",
        '{"time": 0}',
        '{"time": -1, "prompt_tokens": 1, "gen_length": 1}',
        '{"time": 0, "prompt_tokens": 0, "gen_length": 1}',
        '{"time": 0, "prompt_tokens": 1.5, "gen_length": 1}',
        '{"time": 1e999, "prompt_tokens": 1, "gen_length": 1}',
    ],
)
def test_a_bad_line_of_a_trace_is_named(run, tmp_path, line):
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"time": 0, "prompt_tokens": 4, "gen_length": 8}\n' + line + "\n")
    code, out, err = run("serve-trace", *TINY, "--trace", str(trace))
    assert (code, out) == (2, "")
    assert "line 2: expected" in err


@pytest.fixture
def small(monkeypatch):
    """The quick comparison of a few questions and shape `tiny`."""
    monkeypatch.setattr(matched_quality, "QUICK_QUESTIONS", {"verse": (2, 5), "sudoku": (2, 5)})
    monkeypatch.setattr(matched_quality, "QUICK_RIVALS", ())
    monkeypatch.setattr(fixed_work, "QUICK_RIVALS", ())


def test_compare_leaves_a_report_of_each_kind(run, tmp_path, small):
    options = ["--quick", "--repeats", "1", "--threads", "1", "--output", str(tmp_path)]
    code, _, err = run("compare", "--kind", "matched-quality", *options)
    assert code == 0, err
    report = load_report(tmp_path / "matched-quality.json")
    by = {(row["setting"]["pair"], row["system"]): row for row in report.rows}
    exact, fast = by["verse", "ours float32 reference"], by["verse", "ours int8 fast"]
    assert exact["check"] is None
    assert (exact["questions"], exact["judged"]) == (2, 5)
    assert exact["share_right"] == fast["share_right"] == 1.0
    assert fast["nfe"] < exact["nfe"]
    assert exact["tokens_per_forward"] < 1  # text tokens: what is written behind the end token does not count
    assert all((tmp_path / f"matched-quality.{kind}").exists() for kind in ("json", "png", "html"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["latency", "--pair", "verse", "--shape", "s"], "several"),
        (["latency", *TINY, "--against", "nobody"], "'nobody'"),
        (["throughput", *TINY, "--batches", "1,x"], "--batches"),
        (["throughput", *TINY, "--batches", "0"], "--batches"),
        (["compare", "--kind", "speed"], "'speed'"),
        (["compare", "--baseline", "/nonexistent.json"], "cannot be read"),
        (["latency", "--nonsense"], "--nonsense"),
        (["latency", *TINY, "--threshold", "2"], "threshold"),
        (["serve-trace", *TINY, "--trace", "/nonexistent"], "cannot be read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_options(run, arguments, words):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


def test_without_a_checkout(run, tmp_path, monkeypatch):
    """Another project's `benchmarks` is not ours."""
    monkeypatch.setattr(bench_command, "__file__", str(tmp_path / "lib" / "llada_rt" / "bench_command.py"))
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "cli.py").write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path)
    code, out, err = run("latency")
    assert (code, out) == (2, "")
    assert "expected a checkout" in err
    assert "hint: clone" in err


def test_help_without_a_checkout(run, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_command, "__file__", str(tmp_path / "lib" / "llada_rt" / "bench_command.py"))
    monkeypatch.chdir(tmp_path)
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert "checkout" in out


ALONE = """
import sys
for name in ("torch", "safetensors", "matplotlib", "tyro", "transformers", "gguf", "llama_cpp", "pyarrow", "peft"):
    sys.modules[name] = None  # importing it fails as if it were not installed
from llada_rt.cli import app as cli
cli.main(["bench", *sys.argv[1:]])
"""


@pytest.mark.parametrize("command", [[], ["latency"], ["throughput"], ["serve-trace"], ["compare"]])
def test_help_needs_nothing_but_the_package(command):
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *command, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--against" in done.stdout if command and command != ["serve-trace"] else "serve-trace" in done.stdout


def test_what_is_missing_is_named_when_it_is_needed():
    command = [sys.executable, "-c", ALONE, "latency", "--shape", "s"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "bench: needs the package" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_torch(run, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(bench_command.importlib, "import_module", missing)
    code, _, err = run("latency")
    assert code == 2
    assert "needs the package torch" in err
    assert "pip install" in err
