"""llada-rt tune as a user types it: files of prompts, what is printed, what is refused."""

import io
import json

import pytest

from llada_rt.cli import app as cli
from llada_rt.cli.tune_command import Bar, bar_text
from llada_rt.tuning.halving import Progress, Tally
from llada_rt.tuning.space import Setting
from tests.engine.models import write_folder

SETTINGS = '{"threshold": 0.0001, "cache": "dual", "block_length": 8}\n{"threshold": 0.0002}\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    generation = {"llada_rt": {"gen_length": 16}}
    return str(write_folder(tmp_path_factory.mktemp("tune") / "model", generation=generation))


@pytest.fixture
def run(capsys, folder, tmp_path):
    """(exit code, stdout, stderr) of tune with a file of these lines; a few settings, not all."""
    settings = tmp_path / "settings.jsonl"
    settings.write_text(SETTINGS)

    def call(lines: str, *arguments: str, name: str = "in.jsonl") -> tuple[int, str, str]:
        (tmp_path / name).write_text(lines)
        files = ("--input", tmp_path / name, "--out", tmp_path / "out", "--settings", settings)
        with pytest.raises(SystemExit) as leaving:
            cli.main(["tune", "-m", folder, "--threads", "1", *map(str, files), *arguments])
        out, err = capsys.readouterr()
        return leaving.value.code, out, err

    return call


def lines(*values) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def test_a_table_and_a_record(run, tmp_path):
    asked = lines(
        {"prompt": "abc", "id": 7},
        {"prompt": "def", "max_tokens": 8},
        {"text": "a__b"},
        {"messages": [{"role": "user", "content": "x"}]},
    )
    code, out, err = run(asked, "--keep", "0.01")
    assert code == 0, err
    heading, exact, *others, chosen = out.splitlines()
    assert "tokens/s" in heading
    assert exact.split()[:3] == ["exact", "4", "100.0%"]
    assert len(others) == 2
    assert chosen.startswith("chosen: ")
    assert "No answers were given" in err
    assert (tmp_path / "out" / "tuning" / "front.svg").is_file()
    assert "llada_rt" in json.loads((tmp_path / "out" / "generation_config.json").read_text())
    code, again, _ = run(asked, "--keep", "0.01", "--json")
    report = json.loads(again)
    assert (code, report["chosen"]["name"]) == (0, chosen.removeprefix("chosen: "))
    assert report["num_questions"] == 4


def test_a_text_file_and_a_judge(run, tmp_path):
    code, out, err = run("abc\ndef\n", name="in.txt")
    assert code == 0, err
    judge = tmp_path / "judge.py"
    judge.write_text("def is_long(answer, text):\n    return len(text) >= answer\n")
    asked = lines({"prompt": "abc", "answer": 0}, {"prompt": "def", "answer": 0})
    code, out, err = run(asked, "--judge", f"{judge}:is_long", "--restart", "--json")
    assert code == 0, err
    assert [row["right"] for row in json.loads(out)["rows"]] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("asked", "arguments", "code", "words"),
    [
        ("", [], 2, "expected a list of prompts, got none"),
        (lines({"prompt": "a", "answer": "x"}, {"prompt": "b"}), [], 2, "got 1 for 2 prompts"),
        (lines({"prompt": "a"}, {"prompt": "b", "anwser": "x"}), [], 2, "did you mean 'answer'?"),
        (lines({"prompt": "a"}, {"prompt": "b", "threshold": 0.9}), [], 2, "leave threshold out"),
        (lines({"prompt": "a", "answer": "b"}, {"answer": "b"}), [], 2, "prompts[1]"),
        ("nonsense\n", [], 2, "line 1: expected a JSON object"),
        (lines({"prompt": "a"}), ["--keep", "1.5"], 2, "above 0 and at most 1"),
        (lines({"prompt": "a"}), ["--keep", "0"], 2, "above 0 and at most 1"),
        (lines({"prompt": "a"}), ["--budget", "0.00001"], 2, "two settings"),
        (lines({"prompt": "a"}), ["--batch", "0"], 2, "batch"),
        (lines({"prompt": "a"}), ["--judge", "judge.py"], 2, "FILE.py:NAME"),
        (lines({"prompt": "a"}), ["--judge", "/nonexistent.py:f"], 2, "cannot be run"),
        (lines({"prompt": "a"}), ["--judge", f"{__file__}:SETTINGS"], 2, "expected a function SETTINGS"),
        (lines({"prompt": "a"}), ["--settings", "/nonexistent"], 2, "cannot be read"),
        (lines({"prompt": "a"}), ["--threshold", "0.9"], 2, "--threshold"),
        (lines({"prompt": "a"}), ["--out", "/proc/nowhere"], 6, "cannot be written"),
        (lines({"prompt": "a"}), ["-m", "/nonexistent"], 3, "/nonexistent"),
    ],
)
def test_bad_input_has_its_exit_code(run, asked, arguments, code, words):
    got, out, err = run(asked, *arguments)
    assert (got, out) == (code, "")
    assert words in err
    assert "Traceback" not in err


def test_the_demo_model_is_not_written(capsys, tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("abc\n")
    with pytest.raises(SystemExit) as leaving:
        cli.main(["tune", "--input", str(path), "--threads", "1"])
    assert leaving.value.code == 2
    assert "--out" in capsys.readouterr().err


# ---------------------------------------------------------------- the bar

PROGRESS = Progress(30.0, 60.0, 2, 4, 38, Tally(Setting("fast", {}), tokens=500, busy_s=2.0))


def test_the_bar_says_where_the_run_is():
    assert bar_text(PROGRESS) == (
        "[############------------] 30 of 60 s, rung 2 of 4, 38 settings, leading: fast at 250 tokens/s"
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "count"), [(io.StringIO(), 2), (Terminal(), 20)])
def test_the_bar_is_told_now_and_then(stream, count):
    """Twenty trials in twenty seconds: each on a terminal, else one in ten seconds."""
    now = [0.0]
    bar = Bar(stream, lambda: now[0])
    for _ in range(20):
        now[0] += 1.0
        bar.tell(PROGRESS)
    bar.close()
    assert stream.getvalue().count("rung 2") == count
    assert stream.getvalue().endswith("\r\x1b[K" if stream.isatty() else "\n")
