"""An OpenAI-compatible endpoint as a compared system, against a server of the test on the loopback device."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.baselines.contract import EndpointDied, Question
from benchmarks.baselines.openai_endpoint import UNKNOWN_TOKEN, OpenAIEndpoint

Lines = Iterator[bytes | None]  # None: hang up in the middle
USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
DONE = b"data: [DONE]\n\n"


def event(value: dict) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()


def piece(text: str, **more: object) -> bytes:
    return event({"choices": [{"text": text, "index": 0, **more}]})


@pytest.fixture
def serve():
    """serve(reply, status) -> (its url, the requests it got); `reply` makes the lines of an answer to a request."""
    running = []

    def start(reply: Callable[[dict], Lines], status: int = 200) -> tuple[str, list[dict]]:
        requests = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.close_connection = True
                requests.append({"path": self.path, "key": self.headers["Authorization"], **request})
                self.send_response(status)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for line in reply(request):
                    if line is None:
                        return
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                self.wfile.write(b"0\r\n\r\n")

            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/v1", requests

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


def whole(request: dict) -> Lines:
    yield b": a comment\n\n"
    yield piece("one two ")
    yield piece("three")  # two chunks, four tokens
    yield event(USAGE)
    yield DONE


def test_tokens_are_counted_by_usage_and_not_by_chunks(serve):
    url, requests = serve(whole)
    system = OpenAIEndpoint(url, "tiny", api_key="secret", ignore_eos=True, options={"top_k": 1})
    (answer,) = system.answer([Question((5, 6, 7), 4)])
    assert answer.tokens == (UNKNOWN_TOKEN,) * 4
    assert answer.num_written == 4
    assert 0 < answer.first_token_s <= answer.total_s
    assert answer.num_forwards is None
    (request,) = requests
    assert request["path"] == "/v1/completions"
    assert request["key"] == "Bearer secret"
    assert request["prompt"] == [5, 6, 7]
    assert (request["max_tokens"], request["temperature"], request["ignore_eos"], request["top_k"]) == (4, 0, True, 1)


def test_text_prompts_and_names_by_a_tokenizer(serve):
    url, requests = serve(whole)
    words = ["one", "two", "three", "four"]
    encode = lambda text: [words.index(word) for word in text.split()]  # noqa: E731
    system = OpenAIEndpoint(url, "tiny", decode=lambda ids: " ".join(words[i] for i in ids), encode=encode)
    assert system.answer([Question((0, 3), 4)])[0].tokens == (0, 1, 2)  # and an end token
    assert requests[0]["prompt"] == "one four"
    system = OpenAIEndpoint(url, "tiny", encode=lambda text: [1, 2])
    assert system.answer([Question((0,), 4)])[0].tokens == (UNKNOWN_TOKEN,) * 4  # it does not agree with the server


def test_token_ids_of_the_server_are_cut_before_the_end_token(serve):
    def reply(request: dict) -> Lines:
        yield piece("a", token_ids=[8, 9])
        yield piece("", token_ids=[1], finish_reason="stop")
        yield event(USAGE)
        yield DONE

    url, _ = serve(reply)
    (answer,) = OpenAIEndpoint(url, "tiny", stop_ids=[1]).answer([Question((5,), 4)])
    assert answer.tokens == (8, 9)


def test_questions_of_a_call_are_asked_at_once(serve):
    together = threading.Barrier(3, timeout=20)

    def reply(request: dict) -> Lines:
        together.wait()
        yield piece("x", token_ids=[request["prompt"][0] + 1])
        yield event(USAGE)
        yield DONE

    url, _ = serve(reply)
    answers = OpenAIEndpoint(url, "tiny").answer([Question((first,), 4) for first in (10, 20, 30)])
    assert [answer.tokens for answer in answers] == [(11,), (21,), (31,)]


def test_one_that_dies_leaves_what_had_come(serve):
    def reply(request: dict) -> Lines:
        yield piece("one")
        if request["prompt"] == [2]:
            yield None
        yield event(USAGE)
        yield DONE

    url, _ = serve(reply)
    system = OpenAIEndpoint(url, "tiny")
    with pytest.raises(EndpointDied, match="2 of 3 answers came") as caught:
        system.answer([Question((first,), 4) for first in (1, 2, 3)])
    assert [answer and answer.num_tokens for answer in caught.value.answers] == [4, None, 4]
    assert caught.value.num_answered == 2


def test_one_that_falls_silent_is_given_up(serve):
    silence = threading.Event()

    def reply(request: dict) -> Lines:
        yield piece("one")
        silence.wait(20)

    url, _ = serve(reply)
    with pytest.raises(EndpointDied, match="timed out"):
        OpenAIEndpoint(url, "tiny", timeout_s=0.2).answer([Question((1,), 4)])
    silence.set()


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([piece("one"), DONE], "expected `usage`"),
        ([piece("one"), event(USAGE)], r"without \[DONE\]"),
        ([b"data: {oops\n\n"], "expected JSON"),
        ([event({"error": {"message": "no memory"}})], "no memory"),
        ([b"data: 7\n\n"], "got an error"),
        ([event({"choices": [3], "usage": 5}), DONE], "got 5"),
    ],
    ids=["no usage", "no end", "no JSON", "error", "a number", "odd types"],
)
def test_a_stream_that_is_not_whole_is_no_answer(serve, lines, says):
    url, _ = serve(lambda request: iter(lines))
    with pytest.raises(EndpointDied, match=says):
        OpenAIEndpoint(url, "tiny").answer([Question((1,), 4)])


def test_a_refusal_is_told(serve):
    url, _ = serve(lambda request: iter([b'{"error": "no such model"}']), status=404)
    with pytest.raises(EndpointDied, match=r"status 404: .*no such model"):
        OpenAIEndpoint(url, "tiny").answer([Question((1,), 4)])


def test_nobody_there():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but it listens to nobody
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        with pytest.raises(EndpointDied, match=r"0 of 1 answers came, then: .*refused"):
            OpenAIEndpoint(url, "tiny").answer([Question((1,), 4)])


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://", "http://host:port/v1"])
def test_an_odd_address_is_refused(url):
    with pytest.raises(ValueError, match=r"url expected|[Pp]ort"):
        OpenAIEndpoint(url, "tiny")
