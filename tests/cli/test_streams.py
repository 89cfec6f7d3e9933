"""Every command with odd streams: an encoding that lacks characters, a full disk, a closed stream, no reader.

One process makes a child for each of the cases, which is quicker than to start Python and import all for each.
"""

import json
import subprocess
import sys

import pytest

from llada_rt.cli.console import emit_json
from tests.cli.test_commands import ENVIRONMENT
from tests.engine.models import write_folder

# Gets, a line each, a command line and its cases, (what stdout is, what stderr is), each the name of an encoding or a
# fault; says (exit code, stdout, stderr), bytes as latin-1, of each case.
DRIVER = """
import contextlib, gc, io, json, os, sys, tempfile
from llada_rt.cli import app as cli

def put(fd, kind, path):
    if kind == "closed":
        os.close(fd)
        return None
    if kind == "broken":
        reader, target = os.pipe()
        os.close(reader)
    else:
        target = os.open("/dev/full" if kind == "full" else path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(target, fd)
    os.close(target)
    encoding = "utf-8" if kind in ("full", "broken") else kind
    return open(fd, "w", encoding=encoding, errors="backslashreplace" if fd == 2 else "strict", closefd=False)

def answers(arguments, cases):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with contextlib.suppress(SystemExit):
            cli.main(arguments)  # imports what the children need
    gc.freeze()
    for out, err in cases:
        paths = [os.path.join(folder, name) for name in ("out", "err")]
        for path in paths:
            open(path, "wb").close()
        child = os.fork()
        if child == 0:
            sys.stdout = sys.__stdout__ = put(1, out, paths[0])
            sys.stderr = sys.__stderr__ = put(2, err, paths[1])
            cli.main(arguments)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        yield [code, *(open(path, "rb").read().decode("latin-1") for path in paths)]

folder, asked = tempfile.mkdtemp(), os.fdopen(os.dup(0))
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # for the children
for line in asked:
    print(json.dumps(list(answers(*json.loads(line)))), flush=True)
"""
ENCODINGS = ["utf-8", "latin-1", "ascii", "cp1252", "cp932", "utf-16"]
FAULTS = ["full", "closed", "broken"]
CASES = [
    *((encoding, "utf-8") for encoding in ENCODINGS),
    *((fault, "utf-8") for fault in FAULTS),
    *(("utf-8", kind) for kind in ("latin-1", "ascii", *FAULTS)),
    *((kind, kind) for kind in ("ascii", *FAULTS)),
    ("ascii", "closed"),
    ("closed", "full"),
]
# Where a command can go wrong in a way of its own.
QUICK = [("utf-8", "utf-8"), ("ascii", "ascii"), ("latin-1", "utf-8"), *((fault, fault) for fault in FAULTS)]
COMMANDS = [  # command line, exit code, whether there is data
    ("--version", 0, True),
    ("--help", 0, True),
    ("generate --help", 0, True),
    ("generate é -m {}", 0, True),
    ("generate é💩 床 -m {} --json", 0, True),
    ("infill é💩__床 -m {}", 0, True),
    ("infill é💩__床 -m {} --json", 0, True),
    ("generate é💩 床 -m {} --output -", 0, True),
    ("generate é -m {} --logprobs 2", 0, True),
    ("generate --input {}/没有 -m {}", 2, False),
    ("score é 床 --mc-num 2 -m {} --json", 0, True),
    ("chat -M 床前 -m {}", 0, True),
    ("chat -M 床前 -m {} --json --n 2", 0, True),
    ("info -m {} --threads 1", 0, True),
    ("info -m {} --json", 0, True),
    ("info -m {} --memory --json", 0, True),
    ("inspect {}", 0, True),
    ("inspect {} --json", 0, True),
    ("verify {}", 0, True),
    ("verify {} --json", 0, True),
    ("convert {} {}.int8 --compute-type int8 --overwrite", 0, True),
    ("convert {} {}.int8 --compute-type int8 --overwrite --json", 0, True),
    ("bench --help", 0, True),
    ("床 -m {}", 2, False),
    ("generate -m {}", 2, False),
    ("generate é -m {} --gen-length 0", 2, False),
    ("generate é -m {}/没有", 3, False),
    ("inspect /没有", 3, False),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    generation = {"llada_rt": {"gen_length": 6, "temperature": 2.0, "seed": 3}}
    return str(write_folder(tmp_path_factory.mktemp("streams") / "模型é💩", generation=generation))


@pytest.fixture(scope="module")
def driver():
    arguments = [sys.executable, "-c", DRIVER]
    with subprocess.Popen(arguments, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.stdin.close()
        assert process.wait(20) == 0


def same(text: str) -> object:
    """What two runs have in common."""
    value = json.loads(text)
    if isinstance(value, dict) and "outputs" in value:
        return [value["prompt"], [completion["text"] for completion in value["outputs"]]]
    return list(value)


@pytest.mark.parametrize(
    "cases", [pytest.param(QUICK, id="quick"), pytest.param(CASES, id="all", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(("line", "code", "has_data"), COMMANDS, ids=[line for line, _, _ in COMMANDS])
def test_every_command_with_every_stream(driver, folder, line, code, has_data, cases):
    arguments = [word.replace("{}", folder) for word in line.split()]
    driver.stdin.write(json.dumps([arguments, cases]).encode() + b"\n")
    driver.stdin.flush()
    answers = dict(zip(cases, json.loads(driver.stdout.readline()), strict=True))
    expected = answers["utf-8", "utf-8"][1].encode("latin-1").decode("utf-8")
    assert bool(expected) == has_data
    for (out, err), (got, text, said) in answers.items():
        place = (out, err, got, text, said)
        wanted = 6 if has_data and out in ("full", "closed") else code
        assert got == wanted, place
        for word in ("Traceback", "Exception ignored", "Warning"):
            assert word not in said, place
        if err in ENCODINGS and wanted:
            assert said.encode("latin-1").decode("utf-8" if err == "utf-8" else "latin-1").strip(), place
        if out in FAULTS:
            assert not text, place
            continue
        lines = text.encode("latin-1").decode(out).splitlines()
        if "--json" in line:
            assert [same(each) for each in lines] == [same(each) for each in expected.splitlines()], place
        elif out == "utf-8" and "--help" not in line and not line.startswith(("verify", "info", "inspect", "convert")):
            assert lines == expected.splitlines(), place
        elif has_data:
            assert lines, place


def test_what_an_encoding_lacks_is_told_once(folder):
    arguments = [sys.executable, "-m", "llada_rt", "infill", "é床_", "床_", "-m", folder]
    done = subprocess.run(arguments, env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii"}, capture_output=True, timeout=60)
    assert done.stdout.count(rb"\u5e8a") >= 2
    assert done.stderr.count(b"PYTHONIOENCODING=utf-8") == 1
    chosen = subprocess.run(
        arguments, env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii:replace"}, capture_output=True, timeout=60
    )
    assert b"?" in chosen.stdout
    assert b"\\u" not in chosen.stdout


def test_a_closed_stdin_is_an_empty_one(folder):
    for arguments, code in ((["generate", "-", "--raw"], 2), (["chat"], 0)):
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-m", "llada_rt", *arguments, "-m", folder],
            env=ENVIRONMENT,
            capture_output=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (code, b"")
        assert b"Traceback" not in done.stderr


def test_json_is_json(capsys):
    emit_json({"a": [float("nan"), 1.5, {"b": -float("inf")}], "half": "\ud83d", "床": ()})
    line = capsys.readouterr().out
    assert json.loads(line, parse_constant=pytest.fail) == {"a": [None, 1.5, {"b": None}], "half": "\ud83d", "床": []}
    emit_json({"床": "é"})
    assert capsys.readouterr().out == '{"床": "é"}\n'


def test_a_pipe_that_is_full_for_a_while_is_waited_for(folder):
    """Someone else may have made it non-blocking."""
    code = """
import os, sys, threading, time
reader, writer = os.pipe()
os.set_blocking(writer, False)
os.dup2(writer, 1)
os.close(writer)
def read():
    time.sleep(0.3)
    with open(reader, "rb") as file:
        print(len(file.read()), file=sys.stderr)
thread = threading.Thread(target=read)
thread.start()
from llada_rt.cli import console
console.prepare_streams()
console.emit("床" * 300_000)
os.close(1)
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, timeout=60)
    assert done.stderr.split()[0] == b"900001", done.stderr
