"""What the package logs: by itself nothing is heard; who listens hears of models, engines and requests."""

import json
import logging
import subprocess
import sys

import pytest

from llada_rt import Engine, InvalidRequestError, SamplingParams
from tests.cli.test_commands import COMMAND, ENVIRONMENT
from tests.engine.models import write_folder

SHORT = SamplingParams(gen_length=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("log") / "m")


def lines(caplog) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "llada_rt"]


def test_the_life_of_an_engine(folder, caplog):
    caplog.set_level("DEBUG", "llada_rt")
    with Engine(folder, threads=1) as engine:
        engine.generate(["abc"], SHORT, request_ids=["mine"])
        engine.score("a", "b", mc_num=1, request_id="rated")
        with pytest.raises(InvalidRequestError):
            engine.generate("", SHORT)
    engine.close()
    told = lines(caplog)
    assert told[0][0] == "INFO"
    assert told[0][1].startswith(f"loaded {folder} in ")
    assert "1 threads" in told[0][1]
    assert ("DEBUG", "request mine is queued") in told
    assert any(line.startswith("request mine has finished: ") for _, line in told)
    assert ("DEBUG", "request rated has finished: score") in told
    assert told[-1] == ("INFO", f"closed the engine on {folder}")
    assert sum("closed" in line for _, line in told) == 1


def test_a_folder_that_is_odd_is_warned_of(tmp_path, caplog):
    folder = write_folder(tmp_path / "m", tokenizer=False, config={"eos_token_id": ..., "eot_token_id": ...})
    Engine(folder, threads=1).close()
    assert lines(caplog) == [("WARNING", f"{folder} names no token that ends a text: every answer fills its length")]
    caplog.clear()
    folder = write_folder(tmp_path / "n")
    settings = json.loads((folder / "tokenizer.json").read_text())
    for token in range(160, 162):
        settings["added_tokens"].append({**settings["added_tokens"][0], "id": token, "content": f"<more{token}>"})
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    Engine(folder, threads=1).close()
    (told,) = lines(caplog)
    assert told[1].startswith(f"{folder}: the tokenizer has 162 entries and the model 160:")


def test_nobody_hears_it_unasked(folder):
    code = (
        "from llada_rt import Engine, SamplingParams\n"
        f"Engine({str(folder)!r}, threads=1).generate([[3]], SamplingParams(gen_length=4))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("llada_rt").handlers)


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 2), ("warning", 0), (None, 0)])
def test_the_command_line_tells_it_on_stderr(folder, level, count):
    command = [
        *COMMAND,
        "generate",
        "abc",
        "--gen-length",
        "4",
        "-m",
        str(folder),
        *(["--log-level", level] if level else []),
    ]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=120, text=True)
    told = done.stderr.splitlines()
    assert (done.returncode, len(told), done.stdout.count("\n")) == (0, count, 1)
    assert all(line.startswith(("info: ", "debug: ")) for line in told)
