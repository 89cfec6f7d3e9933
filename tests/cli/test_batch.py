"""Requests from files: a line each, run together, told in order; a bad line costs itself alone."""

import asyncio
import io
import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from llada_rt import Engine, SamplingParams
from llada_rt.cli import app as cli
from llada_rt.cli.batch import Tally, run_batch
from llada_rt.cli.batch_input import MAX_LINE_BYTES, Generation, Refused, generation_reader, read_asks
from llada_rt.errors import InternalError, QueueFullError, RequestTooLargeError
from tests.cli.test_commands import COMMAND, ENVIRONMENT
from tests.engine.models import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    generation = {"llada_rt": {"gen_length": 12, "steps": 12, "block_length": 12}}
    return str(write_folder(tmp_path_factory.mktemp("batch") / "model", generation=generation))


@pytest.fixture
def run(capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as leaving:
            cli.main(arguments)
        out, err = capsys.readouterr()
        return leaving.value.code, out, err

    return call


def records(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ask(content: str) -> list[dict]:
    return [{"role": "user", "content": content}]


def test_a_prompt_a_line(run, folder, tmp_path):
    prompts = ["abc", " a b ", "x\ty", "床前", *(f"q{number}" for number in range(60))]
    (tmp_path / "in.txt").write_bytes("\n".join(prompts).encode())  # the last line without an end
    with Engine(folder) as engine:
        raw = [output.text for output in engine.generate(prompts)]
        chat = [engine.chat(ask(prompt)) for prompt in prompts]
    code, out, err = run("generate", "--input", str(tmp_path / "in.txt"), "-m", folder, "--raw")
    assert (code, out, err) == (0, "".join(text + "\n" for text in raw), "")
    target = tmp_path / "out.jsonl"
    code, out, err = run("generate", "--input", str(tmp_path / "in.txt"), "-m", folder, "--output", str(target))
    assert (code, out, err) == (0, "", "")
    told = records(target)
    assert [record["id"] for record in told] == list(range(1, len(prompts) + 1))
    for record, output in zip(told, chat, strict=True):
        assert record["text"] == output.text
        assert record["token_ids"] == output.outputs[0].token_ids
        assert record["finish_reason"] == output.outputs[0].finish_reason
        assert record["usage"] == output.usage.to_dict()
    assert run("generate", *prompts[:3], "-m", folder, "--output", "-")[1].count("\n") == 3


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_only_the_end_of_a_line_is_left_out(end):
    read = generation_reader(SamplingParams(), is_chat=False, is_ids=False, variables=None)
    data = end.join([b"\xef\xbb\xbfab", b" a\t", b"\xc2\xa0x\x0b", b"", b"\xff", b"last"]) + end
    asks = list(read_asks(io.BytesIO(data), read, is_json=False))
    assert [each.line for each in asks] == [1, 2, 3, 4, 5, 6]
    assert [each.prompt["prompt"] for each in asks if isinstance(each, Generation)] == [
        "ab",
        " a\t",
        "\xa0x\x0b",
        "last",
    ]
    assert [each.error.message for each in asks if isinstance(each, Refused)] == [
        "expected a prompt, got an empty line",
        "expected text in UTF-8, got the byte 0xff at 0",
    ]


def test_a_line_that_is_too_long_is_passed_over():
    read = generation_reader(SamplingParams(), is_chat=False, is_ids=False, variables=None)
    long = b"a" * MAX_LINE_BYTES
    kinds = [
        len(each.prompt["prompt"]) if isinstance(each, Generation) else each.error.message
        for each in read_asks(io.BytesIO(b"\n".join([long, long + b"bcd", long * 2, b"x"])), read, is_json=False)
    ]
    refused = f"expected a line of at most {MAX_LINE_BYTES} bytes, got a longer one"
    assert kinds == [MAX_LINE_BYTES, refused, refused, 1]


LINES = [
    ({"id": "a", "prompt": "abc"}, None),
    ({"id": 5, "messages": ask("abc"), "gen_length": 6, "steps": 6, "block_length": 6}, None),
    ({"prompt_token_ids": [3, 14, 15], "max_tokens": 4}, None),
    ({"prompt": [3, 14, 15], "logprobs": 2, "return_tokens": True, "n": 2, "temperature": 1.5, "seed": 3}, None),
    ({"id": "x", "prompt": "abc", "gen_lenght": 3}, ("invalid_request", "gen_lenght")),
    ({"prompt": "abc", "gen_length": 10**6}, ("context_length_exceeded", "gen_length")),
    ({"prompt": "abc", "messages": ask("a")}, ("invalid_request", "prompt")),
    ({"id": [1], "prompt": "abc"}, ("invalid_request", "id")),
    ({"prompt": "abc", "n": 300}, ("request_too_large", "n")),
    ({}, ("invalid_request", "prompt")),
    ({"prompt": 3}, ("invalid_request", "prompt")),
    ({"prompt": "abc", "preset": "turbo"}, ("invalid_request", "preset")),
    ({"messages": [{"role": "pirate", "content": "a"}]}, ("unknown_role", "messages")),
    ({"messages": ask("abc"), "chat_template_kwargs": []}, ("invalid_request", "chat_template_kwargs")),
    ("[1]", ("invalid_request", "input")),
    ("{bad", ("invalid_request", "input")),
    ("[" * 100_000, ("invalid_request", "input")),
    ('{"prompt": "a", "gen_length": ' + "9" * 5000 + "}", ("invalid_request", "input")),
    ('{"prompt": "a", "temperature": NaN}', ("invalid_request", "temperature")),
    ('{"id": "\\ud800", "prompt": "abc"}', None),
]


def test_json_lines(run, folder, tmp_path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line, _ in LINES]
    source.write_text("\n\n".join(texts) + "\n \n")
    code, out, err = run("generate", "--input", str(source), "-m", folder, "--output", str(target))
    told = records(target)
    assert len(told) == len(LINES)
    for (line, error), record in zip(LINES, told, strict=True):
        if error is None:
            assert {"id", "text", "token_ids", "finish_reason", "usage", "metrics"} <= set(record)
        else:
            assert (record["error"]["type"], record["error"]["param"]) == error, line
            assert set(record) == {"id", "error"}
    bad = sum(error is not None for _, error in LINES)
    assert (code, out) == (8, "")
    assert err.startswith(f"error: {bad} of {len(LINES)} requests were refused; the first, of line 9: unknown option")
    assert [record["id"] for record in told[:5]] == ["a", 5, 5, 7, "x"]
    assert told[-1]["id"] == "\ud800"
    with Engine(folder) as engine:
        assert told[0]["text"] == engine.chat(ask("abc")).text
        assert (
            told[1]["token_ids"]
            == engine.chat(ask("abc"), SamplingParams(**{k: 6 for k in ("gen_length", "steps")})).outputs[0].token_ids
        )
        (output,) = engine.generate([[3, 14, 15]], SamplingParams(temperature=1.5, seed=3, n=2))
    assert [each["text"] for each in told[3]["outputs"]] == [each.text for each in output.outputs]
    assert told[3]["text"] == output.text
    assert len(told[3]["tokens"]) == len(told[3]["logprobs"]) == len(told[3]["token_ids"])
    assert told[3]["usage"] == output.usage.to_dict()


def test_a_line_goes_before_the_command_line(run, folder, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n{"prompt": "a", "factor": 1.0, "max_tokens": 5, "seed": 1}\n')
    flags = ["--gen-length", "8", "--preset", "fast", "--threshold", "0.5", "--seed", "9"]
    code, out, _ = run("generate", "--input", str(tmp_path / "in.jsonl"), "-m", folder, "--json", *flags)
    first, second = map(json.loads, out.splitlines())
    assert (code, first["seed"], second["seed"]) == (0, 9, 1)
    assert (first["diffusion"]["canvas_tokens"], second["diffusion"]["canvas_tokens"]) == (8, 5)


def test_infill_and_score(run, folder, tmp_path):
    source = tmp_path / "in.jsonl"
    lines = [
        {"text": "a__b", "id": "t"},
        {"segments": ["a", {"hole": 2, "choice": ["xy", "z"]}, "b"]},
        {"segments": ["a", 1], "open_end": True, "prompt": "q"},
        {"text": "abc"},
        {"text": "a_", "segments": ["a", 1]},
        {"text": 3},
    ]
    source.write_text("\n".join(map(json.dumps, lines)))
    code, out, _ = run("infill", "--input", str(source), "-m", folder, "--json")
    told = [json.loads(line) for line in out.splitlines()]
    with Engine(folder) as engine:
        assert told[0]["text"] == engine.infill(["a", 2, "b"]).text
        rating = engine.score("ab", "cd", mc_num=8)
    assert (code, told[0]["id"], ["error" in record for record in told]) == (8, "t", [False] * 3 + [True] * 3)
    assert told[1]["holes"][0]["text"] in ("xy", "z")

    lines = [{"prompt": "ab", "answer": "cd", "mc_num": 8}, {"prompt": "ab"}, {"prompt": "a", "answer": "", "id": "e"}]
    source.write_text("\n".join(map(json.dumps, lines)))
    code, out, _ = run("score", "--input", str(source), "-m", folder, "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert told[0] == {"id": 1, **rating.to_dict()}
    assert (code, told[1]["error"]["param"], told[2]["error"]["param"]) == (8, "answer", "answer")
    assert run("score", "ab", "cd", "--mc-num", "8", "-m", folder) == (0, f"{rating.log_likelihood:.6f}\n", "")
    code, out, _ = run("score", "ab", "cd", "--mc-num", "8", "-m", folder, "--json")
    assert json.loads(out) == rating.to_dict()
    assert run("score", "3,14", "15", "--ids", "-m", folder)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["generate", "--input", "{0}/none"], 2, "--input: {0}/none: cannot be read"),
        (["generate", "--input", "{0}"], 2, "cannot be read: Is a directory"),
        (["generate", "--input", "{0}/in.txt", "--output", "{0}/in.txt"], 2, "is the input"),
        (["generate", "--input", "{0}/in.txt", "--output", "{0}/none/x"], 6, "cannot be written"),
        (["generate", "--input", "{0}/in.txt", "--output", "/dev/full"], 6, "No space left on device"),
        (["generate", "--input", "{0}/in.txt", "abc"], 2, "got both"),
        (["generate", "--output", "{0}/out"], 2, "beside --output"),
        (["generate", "--input", "{0}/in.txt", "--animate"], 2, "--animate"),
        (["generate", "--input", "{0}/in.txt", "--gen-length", "0"], 2, "gen_length: expected"),
        (["generate", "--input", "{0}/in.txt", "--max-num-seqs", "0"], 2, "max_num_seqs: expected"),
        (["generate", "--input", "{0}/in.txt", "--input-format", "xml"], 2, "xml"),
        (["generate", "--input", "{0}/in.txt", "-m", "{0}/none"], 3, "none"),
        (["infill", "--input", "{0}/in.txt", "a_"], 2, "got both"),
        (["score", "a"], 2, "expected a prompt and an answer"),
        (["score", "a", ""], 2, "answer: expected at least one token"),
        (["score", "a", "b", "--mc-num", "0"], 2, "mc_num: expected"),
        (["score", "a", "b", "--output", "{0}/out"], 2, "--input beside it"),
        (["score", "a", "b", "--input", "{0}/in.txt"], 2, "got both"),
    ],
)
def test_what_cannot_be_begun(run, folder, tmp_path, arguments, code, words):
    (tmp_path / "in.txt").write_text("abc\n")
    (tmp_path / "out").write_text("earlier results")
    given = [word.replace("{0}", str(tmp_path)) for word in arguments]
    got, out, err = run(*given, *([] if "-m" in given else ["-m", folder]))
    assert (got, out) == (code, "")
    assert words.replace("{0}", str(tmp_path)) in " ".join(err.split())
    assert "Traceback" not in err
    assert (tmp_path / "in.txt").read_text() == "abc\n"
    assert (tmp_path / "out").read_text() == "earlier results"


def test_standard_input_beside_an_output_that_is_there(folder, tmp_path):
    """Twice, as whoever runs a pipe again; not, where standard input is that very file."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": [3]}\n')
    command = [sys.executable, "-m", "llada_rt", "generate", "-m", folder, "--gen-length", "2", "--input", "-"]
    command += ["--input-format", "jsonl", "--output"]
    for _ in range(2):
        with source.open() as given:
            subprocess.run([*command, str(out)], stdin=given, check=True, timeout=60, env=ENVIRONMENT)
        assert len(out.read_text().splitlines()) == 1
    with source.open() as given:
        run = subprocess.run(
            [*command, str(source)], stdin=given, capture_output=True, text=True, timeout=60, env=ENVIRONMENT
        )
    assert run.returncode == 2
    assert "is the input" in run.stderr
    assert source.read_text() == '{"prompt": [3]}\n'


def test_earlier_results_outlive_a_model_that_is_not_there(run, folder, tmp_path):
    (tmp_path / "in.txt").write_text("abc\n")
    (tmp_path / "out").write_text("earlier results")
    arguments = ["generate", "--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out")]
    assert run(*arguments, "-m", str(tmp_path / "none"))[0] == 3
    assert (tmp_path / "out").read_text() == "earlier results"
    assert run(*arguments, "-m", folder)[0] == 0
    assert len(records(tmp_path / "out")) == 1


def test_values_for_the_chat_template(run, tmp_path):
    template = "{% if loud %}!{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
    folder = str(write_folder(tmp_path / "m", template=template, generation={"llada_rt": {"gen_length": 4}}))
    flags = ["-m", folder, "--json", "--chat-template-kwargs", '{"loud": true}']
    with Engine(folder) as engine:
        loud, plain = engine.tokenizer.encode("!ab"), engine.tokenizer.encode("ab")
    for verb in (["generate", "ab"], ["chat", "-M", "ab"]):
        code, out, err = run(*verb, *flags)
        assert (code, json.loads(out)["prompt_token_ids"]) == (0, loud), err
    (tmp_path / "in.jsonl").write_text('{"prompt": "ab"}\n{"prompt": "ab", "chat_template_kwargs": {"loud": false}}\n')
    code, out, _ = run("generate", "--input", str(tmp_path / "in.jsonl"), *flags)
    used = [json.loads(line)["usage"]["prompt_tokens"] for line in out.splitlines()]
    assert (code, used) == (0, [len(loud), len(plain)])
    for bad in ("[1]", "{", "3"):
        code, _, err = run("generate", "ab", "-m", folder, "--chat-template-kwargs", bad)
        assert (code, "expected a JSON object" in err) == (2, True)
    assert run("generate", "ab", "--raw", *flags)[0] == 2


def test_tables_beside_the_text(run, folder):
    flags = ["-m", folder, "--preset", "fast", "--gen-length", "8", "--logprobs", "3", "--audit", "1"]
    code, out, err = run("generate", "abc", *flags)
    (answer,) = [json.loads(line) for line in run("generate", "abc", *flags, "--json")[1].splitlines()]
    completion = answer["outputs"][0]
    text, head, *rows = out.splitlines()
    assert (code, err, text) == (0, "", completion["text"])
    assert head.split() == ["position", "token", "logprob", "p", "text", "others"]
    likely = [
        other for other in completion["token_logprobs"][0]["top_logprobs"] if other["id"] != int(rows[0].split()[1])
    ]
    assert rows[0].count("%") == 1 + len(likely) >= 3
    first = rows[0].split()
    assert int(first[0]) == len(answer["prompt_token_ids"])
    assert int(first[1]) == completion["token_ids"][0]
    assert float(first[2]) == pytest.approx(completion["logprobs"][0], abs=1e-3)
    assert rows[-5] == f"audit: {completion['audit']['num_steps']} steps that read the cache, each beside the exact one"
    assert rows[-4].split()[:2] == ["KL", f"{completion['audit']['mean_kl']:.3g}"]
    assert rows[-3].endswith(f"{completion['audit']['num_positions']} candidates")
    assert "logprob" not in run("generate", "abc", "-m", folder)[1]
    assert "no step read the cache" in run("generate", "abc", "-m", folder, "--audit", "1")[1]


def test_lines_of_ids(run, folder, tmp_path):
    (tmp_path / "in.txt").write_text("3,14 15\nx\n")
    (tmp_path / "in.jsonl").write_text('{"prompt": "3,14,15"}\n{"prompt": [3, 14, 15]}\n')
    with Engine(folder) as engine:
        ids = engine.generate([[3, 14, 15]])[0].outputs[0].token_ids
    code, out, _ = run("generate", "--ids", "--input", str(tmp_path / "in.txt"), "-m", folder, "--json")
    first, second = map(json.loads, out.splitlines())
    assert (code, first["token_ids"], second["error"]["param"]) == (8, ids, "ids")
    code, out, _ = run("generate", "--ids", "--input", str(tmp_path / "in.jsonl"), "-m", folder, "--json")
    assert [json.loads(line)["token_ids"] for line in out.splitlines()] == [ids, ids]


# ---------------------------------------------------------------- the stream itself


class FakeEngine:
    """Answers after a time of its own; counts how many are under way."""

    def __init__(self, fail=lambda prompt: None) -> None:
        self.engine = SimpleNamespace(config=SimpleNamespace(max_num_seqs=4, max_num_queued_reqs=12))
        self.running = self.most = 0
        self.fail = fail

    async def generate(self, prompts, params):
        (number,) = prompts
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0.02 if number % 7 == 0 else 0)
            error = self.fail(number)
            if error is not None:
                raise error
            return [number]
        finally:
            self.running -= 1


def asked(count: int):
    return (Generation(number, number, number, SamplingParams()) for number in range(1, count + 1))


def test_results_come_in_order_and_few_are_held():
    engine, tally, told, taken = FakeEngine(), Tally(), [], 0
    most_ahead = 0

    def source():
        nonlocal taken, most_ahead
        for each in asked(2000):
            taken += 1
            most_ahead = max(most_ahead, taken - len(told))
            yield each

    asyncio.run(run_batch(engine, source(), lambda each, result: told.append((each.line, result)), tally))
    assert told == [(number, number) for number in range(1, 2001)]
    assert (tally.num_done, tally.num_refused, tally.first_refused) == (2000, 0, None)
    assert 4 < engine.most <= 12
    assert most_ahead <= 14


def test_a_full_queue_is_waited_for_and_a_fault_of_one_is_its_own():
    tries = itertools.count()

    def fail(number):
        if number == 3:
            return RequestTooLargeError("three")
        return QueueFullError("full") if number == 5 and next(tries) < 2 else None

    tally, told = Tally(), []
    asyncio.run(run_batch(FakeEngine(fail), asked(8), lambda each, result: told.append(result), tally))
    assert [result if isinstance(result, int) else result.error.message for result in told] == [
        1,
        2,
        "three",
        4,
        5,
        6,
        7,
        8,
    ]
    assert (tally.num_done, tally.num_refused, tally.first_refused.line) == (7, 1, 3)


def test_a_fault_of_the_engine_ends_the_batch():
    told = []
    engine = FakeEngine(lambda number: InternalError("x") if number == 20 else None)
    with pytest.raises(InternalError):
        asyncio.run(run_batch(engine, asked(10**9), lambda each, result: told.append(result), Tally()))
    assert told == list(range(1, 20))


def test_a_fault_of_the_input_comes_after_what_was_read():
    def source():
        yield from asked(5)
        raise OSError("gone")

    told = []
    with pytest.raises(OSError, match="gone"):
        asyncio.run(run_batch(FakeEngine(), source(), lambda each, result: told.append(result), Tally()))
    assert told == [1, 2, 3, 4, 5]


def test_cancelled_it_tells_what_is_done():
    release = threading.Event()

    def source():
        yield from asked(6)
        release.wait(30)

    class Slow(FakeEngine):
        async def generate(self, prompts, params):
            if prompts == [3]:
                await asyncio.sleep(60)
            return list(prompts)

    told, tally = [], Tally()

    async def main():
        task = asyncio.create_task(run_batch(Slow(), source(), lambda each, result: told.append(result), tally))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    release.set()
    assert told == [1, 2, 4, 5, 6]
    assert tally.num_done == 5


@pytest.mark.parametrize("form", ["file", "stdin"])
def test_an_interrupt_keeps_what_is_done(folder, tmp_path, form):
    target = tmp_path / "out.jsonl"
    command = [*COMMAND, "generate", "--output", str(target), "-m", folder, "--raw", "--input"]
    lines = "".join(f"prompt {number}\n" for number in range(20_000 if form == "file" else 20)).encode()
    if form == "file":
        (tmp_path / "in.txt").write_bytes(lines)
    source = str(tmp_path / "in.txt") if form == "file" else "-"
    child = subprocess.Popen([*command, source], env=ENVIRONMENT, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    if form == "stdin":  # which stays open: results come although more may follow
        child.stdin.write(lines)
        child.stdin.flush()
    deadline = time.monotonic() + 60
    while (not target.exists() or target.read_bytes().count(b"\n") < 20) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    assert child.wait(30) == 130
    said = child.stderr.read().decode()
    assert "Traceback" not in said
    assert "Fatal" not in said
    told = [record["id"] for record in records(target)]
    assert len(told) >= 20
    assert told == sorted(told)
    if form == "stdin":
        assert told == list(range(1, 21))


def test_a_reader_that_goes_away_ends_it_in_peace(folder, tmp_path):
    (tmp_path / "in.txt").write_text("abc\n" * 500)
    command = [*COMMAND, "generate", "--input", str(tmp_path / "in.txt"), "-m", folder, "--json"]
    child = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.readline()
    child.stdout.close()
    assert child.wait(60) == 0
    assert child.stderr.read() == b""


def test_input_from_a_closed_stdin(folder):
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, "generate", "--input", "-", "-m", folder],
        env=ENVIRONMENT,
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
