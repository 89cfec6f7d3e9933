"""The command line as a user types it: data on stdout, the rest on stderr, exit codes."""

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import llada_rt
from llada_rt import Engine, SamplingParams, errors
from llada_rt.cli import app as cli
from llada_rt.cli.options import PARAMS_FLAGS
from llada_rt.config import DEMO_DIR
from llada_rt.params import ALIASES
from llada_rt.runtime import device
from tests.data.make_goldens import CHECKPOINT
from tests.engine.models import write_folder

needs_demo = pytest.mark.skipif(not (DEMO_DIR / "config.json").is_file(), reason="the demo model is not in this tree")
ENVIRONMENT = os.environ | {
    "PYTHONPATH": f"{Path(llada_rt.__file__).parents[1]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    "PYTHONIOENCODING": "utf-8",
}
COMMAND = [sys.executable, "-m", "llada_rt"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    generation = {"llada_rt": {"gen_length": 12, "steps": 12, "block_length": 12}}
    return str(write_folder(tmp_path_factory.mktemp("cli") / "model", generation=generation))


@pytest.fixture
def run(capsys):
    """(exit code, stdout, stderr) of a command line."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as leaving:
            cli.main(arguments)
        out, err = capsys.readouterr()
        return leaving.value.code, out, err

    return call


def test_generate_through_the_template_or_raw(run, folder):
    with Engine(folder) as engine:
        chat = engine.chat([{"role": "user", "content": "abc"}]).text
        raw = engine.generate("abc")[0].text
    assert run("generate", "abc", "-m", folder) == (0, chat + "\n", "")
    assert run("generate", "abc", "-m", folder, "--raw") == (0, raw + "\n", "")


def test_flags_reach_the_params(run, folder):
    flags = ["--gen-length", "10", "--preset", "fast", "--block-length", "4", "--temperature", "0.5", "--seed", "7"]
    code, out, err = run("generate", "a", "b", "-m", folder, "--json", "--no-eos-early-stop", *flags)
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == 2
    expected = SamplingParams(
        gen_length=10, preset="fast", block_length=4, temperature=0.5, seed=7, eos_early_stop=False, steps=None
    )
    assert SamplingParams.from_dict(lines[0]["params"]) == expected


def test_samples_and_stops(run, folder):
    flags = ["--temperature", "1.5", "--seed", "7", "--n", "3", "--stop", "z", "--stop", "qu", "--timeout-s", "60"]
    code, out, _ = run("generate", "a", "-m", folder, "--json", "--raw", *flags)
    answer = json.loads(out)
    assert (code, answer["params"]["stop"], answer["params"]["n"]) == (0, ["z", "qu"], 3)
    texts = [completion["text"] for completion in answer["outputs"]]
    code, out, _ = run("generate", "a", "-m", folder, "--raw", *flags)
    assert (code, out) == (0, "".join(text + "\n" for text in texts))
    assert len(set(texts)) == 3


def test_another_length_keeps_one_token_a_step(run, folder):
    _, out, _ = run("generate", "a", "-m", folder, "--json", "--gen-length", "20")
    params = json.loads(out)["params"]
    assert (params["gen_length"], params["steps"], params["block_length"]) == (20, None, None)


def test_ids_for_a_model_without_a_tokenizer(run):
    code, out, _ = run("generate", "--ids", "3,14,15", "-m", str(CHECKPOINT), "--gen-length", "4")
    assert code == 0
    assert re.fullmatch(r"\d+(, \d+){3}\n", out)
    assert run("generate", "text", "-m", str(CHECKPOINT))[0] == 3


def test_infill(run, folder):
    code, out, err = run("infill", "ab__c[MASK:3]d", "-m", folder)
    assert (code, err) == (0, "")
    assert out.startswith("ab")
    assert out.endswith("d\n")
    code, out, _ = run("infill", "ab__c", "x_", "-m", folder, "--json")
    assert [len(json.loads(line)["outputs"][0]["token_ids"]) for line in out.splitlines()] == [5, 2]


def test_chat_with_one_message(run, folder):
    with Engine(folder) as engine:
        messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
        expected = engine.chat(messages).text
    assert run("chat", "--message", "hi", "--system", "be brief", "-m", folder) == (0, expected + "\n", "")


def test_info(run, folder):
    code, out, err = run("info", "-m", folder, "--threads", "1")
    assert (code, err) == (0, "")
    assert "156, 157, 158" in out
    assert "1 thread," in out
    assert "gen_length=12" in out
    info = json.loads(run("info", "-m", folder, "--json")[1])
    assert info["mask_token_id"] == 156
    assert info["build"]["version"] == llada_rt.__version__


def test_info_says_what_was_built_for_gpus_and_what_ran(run, folder, monkeypatch):
    gpu = {"index": 1, "name": "H", "compute_capability": "9.0", "memory_bytes": 80 << 30, "driver": 13020}
    ran = {"device": "H", "date": "2026-12-01", "commit": "abc", "what": "tests", "result": "all passed"}

    def shown(build, gpus, runs, missing) -> dict[str, str]:
        answers = {"cuda_build": build, "devices": gpus, "recorded_runs": runs, "missing_cuda": missing}
        for name, answer in answers.items():
            monkeypatch.setattr(device, name, lambda answer=answer: answer)
        out = run("info", "-m", folder, "--device", "cpu")[1]
        return {line[:15].strip(): line[16:] for line in out.splitlines()}

    rows = shown(None, [], [], "this build has no CUDA backend")
    assert rows["CUDA backend"] == "none: this build has no CUDA backend"
    assert rows["GPU"] == "none found"
    assert rows["ran on GPUs"] == "no run on a GPU is recorded"
    built = {"architectures": ["80", "90a-real"], "has_cutlass": False}
    rows = shown(built, [gpu], [], "no NVIDIA driver on this machine")
    assert rows["CUDA backend"] == "for 80, 90a-real, without CUTLASS; not usable: no NVIDIA driver on this machine"
    rows = shown(built | {"has_cutlass": True}, [gpu], [ran, ran | {"what": "golden"}], None)
    assert rows["CUDA backend"] == "for 80, 90a-real, with CUTLASS"
    assert rows["GPU 1"] == "H, compute capability 9.0, 80.0 GiB, driver for CUDA 13.2"
    assert rows["ran on GPUs"] == "2026-12-01 H, abc: tests: all passed"
    assert rows[""] == "2026-12-01 H, abc: golden: all passed"
    info = json.loads(run("info", "-m", folder, "--device", "cpu", "--json")[1])
    assert info["build"]["cuda"] == built | {"has_cutlass": True}
    assert (info["gpus"], info["gpu_runs"]) == ([gpu], [ran, ran | {"what": "golden"}])


def test_version_and_help(run):
    assert run("--version") == (0, f"llada-rt {llada_rt.__version__}\n", "")
    code, out, _ = run("generate", "--help")
    assert code == 0
    for name in SamplingParams().to_dict():
        assert "--" + name.replace("_", "-")[:12] in out, name
    assert run()[0] in (0, 2)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["generate", "a", "-m", "{}", "--gen-length", "0"], 2, "gen_length"),
        (["generate", "a", "-m", "{}", "--gen-length", "x"], 2, "valid integer"),
        (["generate", "a", "-m", "{}", "--gen-length", "500"], 2, "500"),
        (["generate", "a", "-m", "{}", "--temperature", "nan"], 2, "temperature"),
        (["generate", "a", "-m", "{}", "--threshold", "0.9", "--factor", "1"], 2, "exclude"),
        (["generate", "a", "-m", "{}", "--remasking", "lowest"], 2, "lowest"),
        (["generate", "a", "-m", "{}", "--gen-lenght", "3"], 2, "--gen-length"),
        (["generate", "a", "-m", "{}", "--threads", "0"], 2, "threads"),
        (["generate", "-m", "{}"], 2, "PROMPT"),
        (["generate", "", "-m", "{}", "--raw"], 2, "empty"),
        (["generate", "--ids", "1,x", "-m", "{}"], 2, "'x'"),
        (["generate", "--ids", "999", "-m", "{}"], 2, "999"),
        (["infill", "abc", "-m", "{}"], 2, "hole"),
        (["infill", "-m", "{}"], 2, "TEMPLATE"),
        (["nonsense"], 2, "nonsense"),
        (["generate", "a", "-m", "/nonexistent"], 3, "/nonexistent"),
        (["generate", "a", "-m", "{}", "--device", "cuda"], 4, "cuda"),
        (["generate", "a", "-m", "{}", "--cpu-isa", "neon"], 4, "neon"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_exit_codes(run, folder, arguments, code, words):
    got, out, err = run(*(argument.replace("{}", folder) for argument in arguments))
    assert (got, out) == (code, "")
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x"), 2),
        (errors.ContextLengthError("x"), 2),
        (errors.ModelFormatError("x"), 3),
        (errors.ChatTemplateError("x"), 3),
        (errors.DeviceError("x"), 4),
        (errors.OutOfMemoryError("x"), 5),
        (errors.OutputError("x"), 6),
        (MemoryError(), 5),
        (errors.InternalError("x"), 1),
        (RuntimeError("x"), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=repr,
)
def test_every_error_has_its_code(run, monkeypatch, error, code):
    def fail(model, options):
        raise error

    monkeypatch.setattr(cli, "open_engine", fail)
    got, out, err = run("info")
    assert (got, out) == (code, "")
    assert ("Traceback" in err) == isinstance(error, RuntimeError)


def process(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*COMMAND, *arguments], env=ENVIRONMENT, capture_output=True, encoding="utf-8", timeout=120, **options
    )


def test_prompts_and_templates_from_stdin(folder):
    expected = process("generate", "abc", "-m", folder, "--raw").stdout
    assert process("generate", "-", "-m", folder, "--raw", input="abc").stdout == expected
    assert process("infill", "-", "-m", folder, input="a_b").stdout.startswith("a")


@pytest.mark.parametrize("verb", ["generate", "infill"])
def test_the_newline_that_ends_stdin_is_not_part_of_the_prompt(run, monkeypatch, folder, verb):
    more = ("--raw",) if verb == "generate" else ()
    text = b"a_b" if verb == "infill" else b"abc"
    tokens = []
    for end in (b"", b"\n", b"\r\n"):
        # As the interpreter opens it: with universal newlines.
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text + end), encoding="utf-8"))
        _, out, err = run(verb, "-", "-m", folder, *more, "--json")
        assert not err
        tokens.append(json.loads(out)["outputs"][0]["token_ids"])
    assert tokens[0] == tokens[1] == tokens[2]


def test_stdin_that_is_no_text(folder):
    ran = subprocess.run(
        [*COMMAND, "generate", "-", "-m", folder], env=ENVIRONMENT, input=b"a\xff", capture_output=True, check=False
    )
    assert ran.returncode == 2
    assert b"standard input: expected text in utf-8, got the byte 0xff at 1" in ran.stderr


# The interpreter's own streams. tests/cli/test_streams.py opens streams in more encodings, for every command.
@pytest.mark.parametrize(("encoding", "as_json"), [("ascii", False), ("cp1252", True), ("utf-16", False)])
def test_output_in_any_encoding(encoding, as_json):
    """What an encoding lacks comes as escapes; JSON stays JSON."""
    arguments = ["infill", "床____", *(["--json"] if as_json else [])]
    ran = subprocess.run(
        [*COMMAND, *arguments], env=ENVIRONMENT | {"PYTHONIOENCODING": encoding}, capture_output=True, check=False
    )
    assert (ran.returncode, b"Traceback" in ran.stderr) == (0, False), ran.stderr
    text = ran.stdout.decode(encoding)
    if as_json:
        assert json.loads(text)["outputs"][0]["text"].startswith("床")
    else:
        assert text.startswith("床" if encoding.startswith("utf") else "\\u5e8a")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [["generate", "a", "--json"], ["info", "--json"]])
def test_a_full_disk_is_told(folder, arguments):
    with open("/dev/full", "wb") as full:
        ran = subprocess.run(
            [*COMMAND, *arguments, "-m", folder], env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert ran.returncode == 6
    assert b"stdout: cannot be written" in ran.stderr
    assert b"Traceback" not in ran.stderr
    assert b"Exception ignored" not in ran.stderr


def test_chat_reads_messages_from_a_pipe(folder):
    answers = process("chat", "-m", folder, "--forget", "--json", input="hi\n\n/reset\nhi\n/exit\nnever\n")
    assert answers.returncode == 0, answers.stderr
    first, second = (json.loads(line)["outputs"][0]["text"] for line in answers.stdout.splitlines())
    assert first == second


def test_a_reader_that_goes_away_is_no_error(folder):
    arguments = [*COMMAND, "generate", *["a"] * 60, "-m", folder, "--json"]
    with subprocess.Popen(arguments, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.readline()
        child.stdout.close()
        errors_said = child.stderr.read()
        assert child.wait(60) == 0
    assert errors_said == b""


def test_an_interrupt_is_130(folder):
    arguments = [*COMMAND, "generate", *["a"] * 4000, "-m", folder, "--gen-length", "96", "--log-level", "debug"]
    with subprocess.Popen(arguments, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        while b"is queued" not in (line := child.stderr.readline()):
            assert line
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (130, b"")
    assert b"Traceback" not in err


def in_terminal(*arguments: str, typed: bytes = b"") -> tuple[int, str]:
    """(exit code, everything on the screen) of a command run in a terminal of its own."""
    child, terminal = pty.fork()
    if child == 0:
        os.execve(sys.executable, [*COMMAND, *arguments], ENVIRONMENT | {"TERM": "xterm-256color", "COLUMNS": "100"})
    if typed:
        os.write(terminal, typed)
    screen = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:
            break
        if not chunk:
            break
        screen += chunk
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), screen.decode("utf-8", "replace")


def plain(screen: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen).replace("\r", "")


def test_animate_shows_the_canvas_filling(folder):
    with Engine(folder) as engine:
        expected = engine.generate("abc")[0].text
    code, screen = in_terminal("generate", "abc", "-m", folder, "--raw", "--animate", "--delay", "0.001")
    assert code == 0, screen
    assert "░" * 5 in plain(screen)
    assert "\x1b[" in screen
    assert expected.strip().splitlines()[-1] in plain(screen)
    assert "12 forwards" in plain(screen)


def test_without_a_terminal_animate_is_plain(run, folder):
    assert run("generate", "abc", "-m", folder, "--animate") == run("generate", "abc", "-m", folder)


def test_chat_in_a_terminal(folder):
    code, screen = in_terminal("chat", "-m", folder, "--delay", "0.001", typed=b"hi\n/exit\n")
    assert code == 0, screen
    assert "> " in screen
    assert "forwards" in plain(screen)


@needs_demo
def test_a_newcomer_sees_text_soon_and_on_stdout():
    began = time.monotonic()
    first = process("generate")
    took = time.monotonic() - began
    assert first.returncode == 0, first.stderr
    assert "床前明月光" in first.stderr
    assert took < 10  # 2 s on a quiet machine
    assert process("infill").returncode == 0
    assert "demo" in process("info").stdout


def test_logprobs_is_a_number(run, folder):
    code, out, _ = run("generate", "a", "-m", folder, "--json", "--gen-length", "4", "--logprobs", "2")
    assert code == 0
    told = json.loads(out)["outputs"][0]["token_logprobs"]
    assert [len(each["top_logprobs"]) for each in told] == [2] * 4
    code, _, err = run("generate", "a", "-m", folder, "--logprobs", "21")
    assert (code, "logprobs: expected None or an integer from 0 to 20, got 21" in err) == (2, True)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--top-p", "temperature is the knob"),
        ("--echo", "prompt beside it"),
        ("--max-tokens", "called --gen-length here"),
        ("--top-logprobs", "called logprobs here"),
        ("--tensor-parallel-size", "one device"),
        ("--dtype", "called compute_type"),
    ],
)
def test_flags_of_other_engines_are_explained(run, folder, flag, words):
    code, out, err = run("generate", "a", "-m", folder, flag, "1")
    assert (code, out) == (2, "")
    assert words in err


def test_no_alias_is_a_flag():
    """One name per option on the command line; aliases are for programs."""
    assert not {alias.replace("_", "-") for alias in ALIASES} & {name.replace("_", "-") for name in PARAMS_FLAGS}
