"""What an operator relies on: full queues, clients that leave or do not read, deadlines, probes, metrics, the log."""

import asyncio
import contextlib
import json
import logging
import re
import socket
import threading
import time

import httpx
import pytest

from llada_rt import errors
from tests.engine.conftest import held
from tests.server.running import check_quiet, events_of, running
from tests.server.test_gate import fault

LONG = {"prompt": "ab", "max_tokens": 100, "preset": "quality", "block_length": 4, "stream": True}
CANARY = "床前Xyzzy故乡"


def wait_for(holds, seconds=10.0):
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.002)


@contextlib.contextmanager
def connection_of(server, path, body, buffer=None):
    """A connection on which the request was sent, and nothing read; a small buffer of the kernel's."""
    data = json.dumps(body).encode()
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    with socket.socket() as made:
        if buffer is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        made.connect((host, int(port)))
        made.sendall(head.encode() + data)
        yield made


@pytest.fixture(scope="module")
def small(folder):
    """Two run, two wait."""
    with running(folder, engine={"max_num_seqs": 2, "max_num_queued_reqs": 2}, stuck_after=0.3) as server:
        yield server
        check_quiet(server)


def test_a_full_queue(small):
    url = f"{small.url}/v1/completions"
    with held(small.engine):
        asking = []
        for state in ((1, 0), (1, 1), (1, 2)):  # the thread that steps waits in the first one's step
            asking.append(threading.Thread(target=httpx.post, args=(url,), kwargs={"json": {"prompt": "a"}}))
            asking[-1].start()
            wait_for(lambda state=state: (small.engine.num_running, small.engine.num_waiting) == state)
        for body in ({"prompt": "a"}, {"prompt": "a", "stream": True}):
            answer = httpx.post(url, json=body)
            fault(answer, 429, "queue_full")
            assert answer.headers["retry-after"] == "1"
    for thread in asking:
        thread.join()
    assert small.metric("requests_rejected_total", reason="queue_full") == 2
    fault(httpx.post(url, json={"prompt": "a", "n": 3}), 400, "request_too_large")


def test_streams_that_can_never_all_wait_are_too_many(small):
    body = {"prompt": ["a"] * 3, "stream": True}
    fault(httpx.post(f"{small.url}/v1/completions", json=body), 400, "request_too_large")


def test_of_several_streams_all_run_or_none(small):
    dropped = small.engine.stats().num_dropped
    with held(small.engine):
        first = threading.Thread(
            target=httpx.post, args=(f"{small.url}/v1/completions",), kwargs={"json": {"prompt": "a"}}
        )
        first.start()
        wait_for(lambda: small.engine.num_running == 1)
        second = threading.Thread(
            target=httpx.post, args=(f"{small.url}/v1/completions",), kwargs={"json": {"prompt": "a"}}
        )
        second.start()
        wait_for(lambda: small.engine.num_waiting == 1)
        body = {"prompt": ["a", "b"], "stream": True}
        fault(httpx.post(f"{small.url}/v1/completions", json=body), 429, "queue_full")
    wait_for(lambda: small.engine.stats().num_dropped > dropped)
    first.join()
    second.join()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/score"])
def test_a_client_that_leaves_ends_its_request(small, stream, path):
    if stream and path == "/v1/score":
        body = {"prompt": "a", "answer": "bcd" * 20, "mc_num": 1000, "cfg_scale": 1.0}
    elif path == "/v1/score":
        body = {"prompt": "a", "answer": "bcd" * 20, "mc_num": 1000}
    else:
        body = {"prompt": "a", "stream": stream}
    dropped, gone = small.engine.stats().num_dropped, small.metric("client_disconnects_total")
    with held(small.engine) as release:
        with connection_of(small, path, body):
            wait_for(lambda: small.engine.num_running > 0)
        wait_for(lambda: small.service.num_open == 0)
        release()
        wait_for(lambda: small.engine.stats().num_dropped == dropped + 1)
        assert small.engine.num_running == 0
    assert small.metric("client_disconnects_total") == gone + 1
    assert small.metric("requests_total", endpoint=path, code="499") >= 1


def test_a_storm_of_clients_that_leave_at_any_moment(small):
    async def one(client, number):
        body = {"prompt": "ab", "max_tokens": 60, "stream": number % 2 == 0}
        try:
            await asyncio.wait_for(client.post("/v1/completions", json=body), 0.0005 * (number % 40))
        except TimeoutError:
            return 0
        return 1

    async def storm():
        limits = httpx.Limits(max_connections=20)
        async with httpx.AsyncClient(base_url=small.url, limits=limits, timeout=30) as client:
            return sum(await asyncio.gather(*(one(client, number) for number in range(400))))

    asyncio.run(storm())
    check_quiet(small)
    assert small.engine.num_open_slots == 0
    assert httpx.post(f"{small.url}/v1/completions", json={"prompt": "a"}).status_code == 200


def test_a_client_that_does_not_read_is_cut(folder):
    """Its kernel's buffers take some; the server keeps no more than it may, and ends the request."""
    with (
        running(folder, send_buffer=4096, max_unread_bytes=100_000, write_timeout=60.0) as server,
        held(server.engine) as release,
    ):
        body = LONG | {"n": 8, "logprobs": 20, "stream_mode": "denoise", "temperature": 1.0, "max_tokens": 120}
        done = threading.Event()

        def step():
            while not done.wait(0.04):
                release()

        stepping = threading.Thread(target=step)
        stepping.start()
        try:
            with connection_of(server, "/v1/completions", body, buffer=4096):
                wait_for(lambda: server.metric("slow_clients_cut_total") == 1, 30)
                wait_for(lambda: server.service.num_open == 0)
        finally:
            done.set()
            stepping.join()
        release()
        check_quiet(server)
        assert server.engine.stats().num_dropped == 1


def test_one_large_piece_is_no_slow_client(folder):
    with running(folder, max_unread_bytes=10) as server:
        answer = httpx.post(f"{server.url}/v1/completions", json=LONG | {"logprobs": 20, "stream_mode": "denoise"})
        assert answer.text.endswith("data: [DONE]\n\n")
        assert server.metric("slow_clients_cut_total") == 0


def test_a_client_that_takes_nothing_for_long_is_cut(folder):
    with running(folder, send_buffer=4096, write_timeout=0.3) as server:
        body = LONG | {"n": 16, "logprobs": 20, "stream_mode": "denoise", "temperature": 1.0, "max_tokens": 120}
        with connection_of(server, "/v1/completions", body, buffer=4096):
            wait_for(lambda: server.metric("slow_clients_cut_total") == 1)
        check_quiet(server)


def test_a_silent_stream_says_that_it_lives(folder):
    with running(folder, ping_interval=0.05) as server, held(server.engine) as release:
        with httpx.stream("POST", f"{server.url}/v1/completions", json={"prompt": "a", "stream": True}) as answer:
            lines = answer.iter_lines()
            assert next(lines) == ": ping"
            for _ in range(20):
                release()
            rest = [line for line in lines if line and line != ": ping"]
        assert rest[-1] == "data: [DONE]"


# ---------------------------------------------------------------- time


def test_a_request_whose_time_is_over_tells_what_there_is(folder):
    with running(folder, request_timeout=0.4) as server, held(server.engine) as release:
        thread = threading.Thread(target=lambda: [(time.sleep(0.15), release()) for _ in range(8)])
        thread.start()
        answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": "a", "max_tokens": 100})
        thread.join()
        (choice,) = answer.json()["choices"]
        assert (choice["finish_reason"], choice["diffusion"]["finish_reason"]) == ("length", "timeout")
        assert 0 < choice["diffusion"]["nfe"] < 100


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_never_began_is_a_504(folder, stream):
    with running(folder, engine={"max_num_seqs": 1}) as server, held(server.engine) as release:
        first = threading.Thread(
            target=httpx.post, args=(f"{server.url}/v1/completions",), kwargs={"json": {"prompt": "a"}}
        )
        first.start()
        wait_for(lambda: server.engine.num_running == 1)
        thread = threading.Thread(target=lambda: (time.sleep(0.3), [release() for _ in range(50)]))
        thread.start()
        body = {"prompt": "a", "timeout_s": 0.1, "stream": stream}
        answer = httpx.post(f"{server.url}/v1/completions", json=body)
        thread.join()
        first.join()
        if stream:
            (told,) = events_of(answer.text)
            assert told["error"]["code"] == "deadline_exceeded"
        else:
            fault(answer, 504, "deadline_exceeded")


def test_a_score_has_its_time_too(folder):
    with running(folder, request_timeout=0.2) as server, held(server.engine) as release:
        answer = httpx.post(f"{server.url}/v1/score", json={"prompt": "a", "answer": "b"})
        fault(answer, 504, "deadline_exceeded")
        release()
        check_quiet(server)


# ---------------------------------------------------------------- probes


def test_probes_of_an_idle_server(server, ask):
    assert ask.get("/health").json() == {"status": "ok"}
    assert ask.get("/ready").json() == {"status": "ready"}
    told = ask.get("/health/progress").json()
    assert (told["status"], told["running"], told["waiting"], told["seconds_since_step"]) == ("idle", 0, 0, None)
    version = ask.get("/version").json()
    assert set(version) == {"version", "build", "system_fingerprint"}
    assert version["system_fingerprint"].startswith("fp_")


def test_a_server_that_makes_no_step_is_not_ready_and_still_alive(small):
    with held(small.engine) as release:
        asking = threading.Thread(
            target=httpx.post, args=(f"{small.url}/v1/completions",), kwargs={"json": {"prompt": "a"}}
        )
        asking.start()
        wait_for(lambda: small.engine.num_running == 1)
        assert httpx.get(f"{small.url}/health/progress").json()["status"] == "ok"
        time.sleep(0.4)
        fault(httpx.get(f"{small.url}/health/progress"), 503, "engine_stuck")
        fault(httpx.get(f"{small.url}/ready"), 503, "engine_stuck")
        assert httpx.get(f"{small.url}/health").status_code == 200
        release()
    asking.join()
    assert httpx.get(f"{small.url}/ready").status_code == 200


def test_an_engine_that_is_closed_is_not_alive(folder):
    with running(folder) as server:
        server.engine.close()
        for path in ("/health", "/ready", "/health/progress"):
            fault(httpx.get(server.url + path), 503, "engine_closed")
        fault(httpx.post(f"{server.url}/v1/completions", json={"prompt": "a"}), 503, "engine_closed")
        assert "llada_rt_engine_up{" in httpx.get(f"{server.url}/metrics").text
        assert server.metric("engine_up") == 0


# ---------------------------------------------------------------- faults of ours


@pytest.mark.parametrize("stream", [False, True])
def test_a_fault_in_the_engine_is_one_requests(folder, stream, monkeypatch):
    with running(folder) as server:
        denoise = server.engine._runner.denoise
        monkeypatch.setattr(server.engine._runner, "denoise", lambda plan: 1 / 0)
        answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": CANARY, "stream": stream})
        if stream:
            (told,) = events_of(answer.text)
            assert told["error"]["type"] == "server_error"
        else:
            assert answer.status_code == 500
        assert CANARY not in answer.text
        monkeypatch.setattr(server.engine._runner, "denoise", denoise)
        assert httpx.post(f"{server.url}/v1/completions", json={"prompt": "a"}).status_code == 200


def test_a_fault_in_the_server_has_a_report(folder, monkeypatch, caplog):
    def broken(*arguments):
        raise RuntimeError(CANARY)

    with running(folder) as server, caplog.at_level(logging.DEBUG):
        monkeypatch.setattr(type(server.service), "read_options", broken)
        answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": "a"})
        message = fault(answer, 500, "internal_error")["message"]
        (report,) = re.findall("report ([0-9a-f]{12})", message)
        told = [record.getMessage() for record in caplog.records if report in record.getMessage()]
        assert len(told) == 1
        assert "RuntimeError at " in told[0]
        assert CANARY not in answer.text + "".join(told)


def test_memory_that_is_refused_may_be_tried_again(folder, monkeypatch):
    def refuse(*arguments, **more):
        raise errors.OutOfMemoryError("no memory")

    with running(folder) as server:
        monkeypatch.setattr(server.service.engine, "generate", refuse)
        answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": "a"})
        fault(answer, 503, "out_of_memory")
        assert answer.headers["retry-after"] == "1"


# ---------------------------------------------------------------- metrics and log


def test_metrics_count_what_was_answered(folder):
    with running(folder) as server:
        body = {"prompt": "ab", "n": 2, "temperature": 1, "cache": "dual", "audit": 1}
        told = httpx.post(f"{server.url}/v1/completions", json=body).json()
        stream = httpx.post(f"{server.url}/v1/completions", json={"prompt": "ab", "stream": True})
        assert stream.status_code == 200
        fault(httpx.post(f"{server.url}/v1/completions", json={}), 400, "invalid_request")
        httpx.get(f"{server.url}/{CANARY}")
        metric = server.metric
        assert metric("requests_total", endpoint="/v1/completions", code="200") == 2
        assert metric("requests_total", endpoint="/v1/completions", code="400") == 1
        assert metric("requests_total", endpoint="other", code="404") == 1
        httpx.get(f"{server.url}/v1/models/{CANARY}")
        assert metric("requests_total", endpoint="/v1/models/{name}", code="404") == 1
        assert metric("requests_rejected_total", reason="invalid_request") == 1
        assert metric("request_e2e_request_latency_seconds_count") == 0  # no such series
        assert metric("e2e_request_latency_seconds_count") == 2
        assert metric("request_queue_time_seconds_count") == metric("time_to_first_commit_seconds_count") == 2
        assert metric("time_to_first_text_seconds_count") == 1
        assert metric("tokens_per_forward_count") == metric("request_nfe_count") == 3
        assert metric("cache_max_kl_nats_count") == 2
        costs = [choice["diffusion"] for choice in told["choices"]]
        last = events_of(stream.text)[-2]["choices"][0]["diffusion"]
        assert metric("request_nfe_sum") == sum(cost["nfe"] for cost in [*costs, last])
        assert metric("generation_tokens_total") == sum(cost["emitted_tokens"] for cost in [*costs, last])
        assert metric("padding_tokens_total") == sum(cost["padding_tokens"] for cost in [*costs, last])
        assert metric("cache_refreshes_total") == sum(cost["num_refreshes"] for cost in [*costs, last])
        assert metric("prompt_tokens_total") == 2 * told["usage"]["prompt_tokens"]
        stats = server.engine.stats()
        assert metric("forwards_total") == stats.num_forwards
        assert metric("query_rows_total") == stats.num_query_rows
        assert metric("tokens_committed_total") == stats.num_committed
        assert metric("memory_bytes", kind="kv") == stats.kv_bytes
        text = httpx.get(f"{server.url}/metrics").text
        assert "llada_rt_build_info{" in text
        assert CANARY not in text


def test_a_request_has_one_line_without_its_words(server, ask, caplog):
    with caplog.at_level(logging.DEBUG):
        ask.post(
            "/v1/completions", json={"prompt": CANARY[:8], "stop": [CANARY[:3]]}, headers={"x-request-id": "line-1"}
        )
        ask.post("/v1/completions", json={"prompt": CANARY * 50}, headers={"x-request-id": "line-2"})
        ask.post("/v1/completions", json={CANARY: 1, "prompt": "a"}, headers={"x-request-id": "line-3"})
        ask.get(f"/{CANARY}?{CANARY}", headers={"x-request-id": "line-4", "authorization": f"Bearer {'key' * 5}"})
        wait_for(lambda: sum(record.name == "llada_rt.server" for record in caplog.records) == 4)
    lines = [record.getMessage() for record in caplog.records if record.name == "llada_rt.server"]
    expected = ["POST /v1/completions: 200", "POST /v1/completions: 400", "POST /v1/completions: 400", "GET other: 404"]
    for number, (line, begin) in enumerate(zip(lines, expected, strict=True), 1):
        assert line.startswith(begin)
        assert line.endswith(f"request line-{number}")
    everything = "".join(
        record.getMessage() + str(record.exc_info) for record in caplog.records if record.name.startswith("llada_rt")
    )
    assert "Xyzzy" not in everything
    assert "keykey" not in everything
