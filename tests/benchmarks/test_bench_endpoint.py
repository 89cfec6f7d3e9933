"""llada-rt bench beside a server: one of the test on the loopback device, which can die in the middle."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llada_rt.cli import app as cli
from tests.data.make_goldens import CHECKPOINT

TINY = ["-m", str(CHECKPOINT), "--gen-length", "8", "--prompt-length", "8", "--threads", "1"]
NUM_TOKENS = 5


@pytest.fixture
def server():
    """start(lives) -> its address; after so many answers it hangs up in the middle of each."""
    running = []

    def start(lives: int) -> str:
        left = [lives]

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.end_headers()
                left[0] -= 1
                self.send({"choices": [{"text": "abc", "token_ids": [7] * NUM_TOKENS}]})
                if left[0] >= 0:
                    self.send({"choices": [], "usage": {"completion_tokens": NUM_TOKENS}})
                    self.wfile.write(b"data: [DONE]\n\n")

            def send(self, value: dict) -> None:
                self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())

            def log_message(self, *_: object) -> None:
                pass

        listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((listening, thread))
        return f"http://127.0.0.1:{listening.server_port}/v1#model"

    yield start
    for listening, thread in running:
        listening.shutdown()
        listening.server_close()
        thread.join()


@pytest.fixture
def run(capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as leaving:
            cli.main(["bench", *arguments])
        out, err = capsys.readouterr()
        return leaving.value.code, out, err

    return call


def test_latency_beside_an_endpoint(run, server):
    address = server(1000)
    code, out, err = run("latency", *TINY, "--questions", "3", "--repeats", "2", "--against", address, "--json")
    assert code == 0, err
    ours, theirs = json.loads(out)["rows"]
    assert (theirs["system"], theirs["tokens"], theirs["rounds"], theirs["partial"]) == (address, 15, 2, None)
    assert theirs["tokens_per_s"] > 0
    assert theirs["first_text_s"]["p50"] > 0
    assert ours["check"] is None


def test_an_endpoint_that_dies_is_marked(run, server):
    address = server(7)  # in the third round
    code, out, err = run("latency", *TINY, "--questions", "3", "--repeats", "3", "--against", address)
    assert code == 0, err
    assert re.search(r"\d\*", out)
    assert "partial (*)" in out
    assert "without [DONE]" in out


def test_a_dead_endpoint_s_rounds_are_kept(run, server):
    address = server(7)
    code, out, err = run("latency", *TINY, "--questions", "3", "--repeats", "3", "--against", address, "--json")
    assert code == 0, err
    ours, theirs = json.loads(out)["rows"]
    assert (theirs["rounds"], theirs["tokens"]) == (1, 15)
    assert "without [DONE]" in theirs["partial"]
    assert ours["rounds"] == 3


def test_a_trace_beside_an_endpoint_that_dies(run, server):
    options = ["--requests", "6", "--rate", "100", "--endpoint", server(4), "--json", "--preset", "quality"]
    code, out, err = run("serve-trace", *TINY, *options)
    assert code == 0, err
    ours, theirs = json.loads(out)["rows"]
    assert (ours["questions"], theirs["questions"], theirs["tokens"]) == (6, 4, 4 * NUM_TOKENS)
    assert theirs["partial"].startswith("2 of 6 requests failed")
    assert len(theirs["total_waits_s"]) == 4


def test_nobody_listens(run):
    options = ["--questions", "2", "--repeats", "1", "--against", "http://127.0.0.1:9/v1#model"]
    code, out, err = run("latency", *TINY, *options)
    assert code == 0, err
    assert "check failed, no speed: nothing had come" in out


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/v1", "http://:0/v1#m"])
def test_an_address_that_is_none(run, address):
    code, _, err = run("serve-trace", *TINY, "--endpoint", address)
    assert code == 2, err
    assert "expected" in err
