"""The door: keys, sizes, forms of bodies, request ids. Every refusal has the form of an OpenAI error."""

import json
import socket
import time

import httpx
import pytest

from llada_rt.errors import ConfigError
from llada_rt.server.settings import SETTINGS_FIELDS
from tests.server.running import check_quiet, running

KEY, OTHER = "a-key-of-the-house", "another-key-00"
BODY = {"prompt": "ab", "max_tokens": 2}


def fault(answer, status, code):
    """Checks the form of an error and gives its facts."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    assert set(told) == {"error"}
    assert set(told["error"]) == {"message", "type", "param", "code"}
    assert told["error"]["code"] == code
    assert told["error"]["message"]
    assert answer.headers["x-request-id"]
    return told["error"]


# ---------------------------------------------------------------- keys


@pytest.fixture(scope="module")
def locked(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"# keys\n\n{OTHER}\n")
    with running(folder, api_key=(KEY,), api_key_file=str(path)) as server:
        server.key_file = path
        yield server


OPEN = {"/", "/page/page.js", "/page/page.css", "/page/index.html", "/health", "/ready", "/health/progress"}


def paths_of(server):
    app = server.server.config.app._app
    return {
        (path, method) for route in app.routes for path in [route.path] for method in sorted(route.methods - {"HEAD"})
    }


def test_no_path_but_probes_and_the_page_without_a_key(locked):
    seen = set()
    for path, method in paths_of(locked):
        answer = httpx.request(
            method, locked.url + path.replace("{name:path}", "tiny"), json=BODY if method == "POST" else None
        )
        if path in OPEN or path.startswith("/page/"):
            assert answer.status_code == 200, path
        else:
            fault(answer, 401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
            fault(httpx.options(answer.url), 401, "invalid_api_key")
            seen.add(path)
    assert {"/metrics", "/version", "/openapi.json", "/v1/models", "/v1/chat/completions", "/tokenize"} <= seen


@pytest.mark.parametrize("key", [KEY, OTHER])
@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_a_key_opens(locked, key, header):
    value = f"Bearer {key}" if header == "authorization" else key
    answer = httpx.post(f"{locked.url}/v1/completions", json=BODY, headers={header: value})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", f"Basic {KEY}")],
        [("authorization", KEY)],
        [("authorization", f"Bearer {KEY}x")],
        [("authorization", f"Bearer {KEY[:-1]}")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer " + "x" * 10_000)],
        [("authorization", f"Bearer {KEY}"), ("authorization", f"Bearer {KEY}")],
        [("authorization", f"Bearer {KEY}"), ("x-api-key", KEY)],
        [("x-api-key", KEY.upper())],
        [("x-api-key", "# keys")],
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_does_not_open(locked, headers):
    answer = httpx.post(f"{locked.url}/v1/completions", json=BODY, headers=headers)
    fault(answer, 401, "invalid_api_key")


def test_blanks_around_a_header_are_no_part_of_it(locked):
    host, port = locked.url.removeprefix("http://").split(":")
    head = f"GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Api-Key:  {OTHER}  \r\n\r\n"
    assert b" 200 " in raw(host, int(port), head.encode()).split(b"\r\n")[0]


@pytest.mark.parametrize(
    "path", ["//v1/completions", "/v1/../v1/completions", "/V1/completions", "/health/../v1/models", "/x"]
)
def test_no_way_around_the_door(locked, path):
    """The path is taken as it came: a raw client, as others tidy it."""
    host, port = locked.url.removeprefix("http://").split(":")
    answer = raw(host, int(port), f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    assert b" 401 " in answer.split(b"\r\n")[0]


def test_keys_are_read_again(locked):
    fresh = "a-fresh-key-11"
    headers = {"x-api-key": fresh}
    assert httpx.get(f"{locked.url}/v1/models", headers=headers).status_code == 401
    locked.key_file.write_text(f"{OTHER}\n{fresh}\n")
    locked.server._keys.load()
    assert httpx.get(f"{locked.url}/v1/models", headers=headers).status_code == 200
    locked.key_file.write_text("")
    with pytest.raises(ConfigError, match="at least one key"):
        locked.server._keys.load()
    assert httpx.get(f"{locked.url}/v1/models", headers=headers).status_code == 200
    locked.key_file.write_text(f"{OTHER}\n")
    locked.server._keys.load()


def test_metrics_may_be_open(folder):
    with running(folder, api_key=(KEY,), metrics_open=True) as server:
        assert httpx.get(f"{server.url}/metrics").status_code == 200
        assert httpx.get(f"{server.url}/version").status_code == 401


def test_page_and_description_may_be_closed(folder):
    with running(folder, page=False, docs=False) as server:
        for path in ("/", "/page/page.js", "/openapi.json", "/docs", "/redoc"):
            fault(httpx.get(server.url + path), 404, "not_found")


# ---------------------------------------------------------------- bodies


def raw(host, port, data, wait_s=5.0):
    """What the server sends back until it closes, or says nothing any more."""
    with socket.create_connection((host, port), timeout=wait_s) as connection:
        connection.sendall(data)
        parts = []
        try:
            while part := connection.recv(65536):
                parts.append(part)
        except TimeoutError:
            pass
    return b"".join(parts)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"prompt": "a"',
        b'{"prompt": "a"} {"prompt": "b"}',
        b"[1]",
        b'"a"',
        b"null",
        b"\xef\xbb\xbf{}",
        '{"prompt": "a"}'.encode("utf-16"),
        b'{"prompt": "\xff"}',
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": Infinity}',
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "a", "more": {"a": 1, "a": 2}}',
        b'{"prompt": "a", "seed": ' + b"1" * 5000 + b"}",
        b'{"prompt": ' + b"[" * 100_000,
        b'{"more": ' + b"[" * 100 + b"]" * 100 + b', "prompt": "a"}',
        b'{"more": ' + b'{"a":' * 65 + b"1" + b"}" * 65 + b"}",
    ],
    ids=lambda value: str(value[:30]),
)
def test_what_is_no_json_object(ask, content):
    answer = ask.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    fault(answer, 400, "invalid_json")


@pytest.mark.parametrize(
    "content",
    [
        b'{"prompt": "' + b'\\"' * 900_000,
        b'{"prompt": "a", "x": "' + b'\\"' * 900_000 + b"\\",
        b'{"a": 1, ' + b", ".join(b'"%d": 1' % number for number in range(120_000)) + b', "a": 1}',
        b'{"prompt": [' + b"1.5," * 400_000 + b"1]}",
        b'{"prompt": [' + b"[1.5]," * 250_000 + b"[1]]}",
        b'{"prompt": "a", ' + b", ".join(b'"%d": 1' % number for number in range(120_000)) + b"}",
        b'{"' + b"a" * 1_900_000 + b'": 1, "prompt": "a"}',
    ],
    ids=lambda value: str(value[:24]),
)
def test_a_large_body_costs_little(ask, content):
    began = time.monotonic()
    answer = ask.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    fault(answer, 400, answer.json()["error"]["code"])
    assert len(answer.content) < 2000
    assert time.monotonic() - began < 5


def test_a_large_body_of_other_paths_costs_little(ask):
    for path, body in (
        ("/v1/infill", {"segments": [1] * 600_000}),
        ("/v1/infill", {"pinned": {str(number): "a" for number in range(150_000)}}),
        ("/v1/edit", {"text": "a", "spans": [{"start": 0, "end": 1}] * 50_000}),
        ("/v1/edit", {"text": "a", "spans": [1] * 600_000}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}] * 40_000}),
        ("/v1/chat/completions", {"messages": [1] * 600_000}),
        ("/detokenize", {"tokens": [1] * 600_000}),
        ("/detokenize", {"tokens": ["a"] * 300_000}),
        ("/v1/responses", {"input": "a", "include": [1] * 600_000}),
    ):
        began = time.monotonic()
        answer = ask.post(path, json=body)
        fault(answer, 400, answer.json()["error"]["code"])
        assert len(answer.content) < 2000
        assert time.monotonic() - began < 5, path


def test_brackets_in_strings_are_no_depth(ask):
    assert ask.post("/v1/completions", json={"prompt": '["\\[' * 20, "max_tokens": 2}).status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 1}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [160]}, "prompt"),
        ({"prompt": [2**40]}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"prompt": "a" * 129}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"prompt": "a", "suffix": "\udfff"}, "prompt"),
        ({"prompt": "a", "max_tokens": 1.5}, "gen_length"),
        ({"prompt": "a", "max_tokens": "10"}, "gen_length"),
        ({"prompt": "a", "max_tokens": True}, "gen_length"),
        ({"prompt": "a", "max_tokens": 2**63}, "gen_length"),
        ({"prompt": "a", "temperature": "1"}, "temperature"),
        ({"prompt": "a", "stream": 1}, "stream"),
        ({"prompt": "a", "stream": "true"}, "stream"),
        ({"prompt": "a", "stream_mode": "block"}, "stream_mode"),
        ({"prompt": "a", "stream_mode": "denoise"}, "stream_mode"),
        ({"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
        (
            {"prompt": "a", "stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
        ({"prompt": "a", "logprobs": -1}, "logprobs"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "\ud800": 1}, "body"),
        ({"prompt": "a", "\x1b[31m": 1}, "\\x1b[31m"),
    ],
    ids=str,
)
def test_what_a_field_cannot_be(ask, body, param):
    answer = ask.post("/v1/completions", content=json.dumps(body), headers={"content-type": "application/json"})
    told = fault(answer, 400, answer.json()["error"]["code"])
    assert told["param"] == param


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_that_is_not_json_by_its_own_account(ask, kind):
    headers = {"content-type": kind} if kind else {}
    fault(ask.post("/v1/completions", content=b'{"prompt": "a"}', headers=headers), 415, "unsupported_media_type")


def test_a_body_that_is_compressed(ask):
    headers = {"content-type": "application/json; charset=utf-8", "content-encoding": "gzip"}
    fault(ask.post("/v1/completions", content=b"\x1f\x8b", headers=headers), 415, "unsupported_media_type")


def test_paths_and_methods_that_are_not_there(ask):
    fault(ask.get("/v1/nothing"), 404, "not_found")
    fault(ask.get("/v1/models/"), 404, "model_not_found")
    answer = ask.get("/v1/completions")
    fault(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"
    fault(ask.request("TRACE", "/health"), 405, "method_not_allowed")


@pytest.fixture(scope="module")
def narrow(folder):
    """A server with small limits."""
    limits = {"max_body_bytes": 1000, "max_header_bytes": 2000, "body_timeout": 0.5, "header_timeout": 0.5}
    with running(folder, **limits, max_concurrent_requests=1) as server:
        host, port = server.url.removeprefix("http://").split(":")
        server.place = host, int(port)
        yield server
        check_quiet(server)


def test_a_body_that_says_it_is_too_large(narrow):
    fault(httpx.post(f"{narrow.url}/v1/completions", json={"prompt": "a" * 1000}), 413, "payload_too_large")
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    assert raw(*narrow.place, head + b"Content-Length: 9999999999\r\n\r\n").startswith(b"HTTP/1.1 413 ")


def test_a_body_that_turns_out_to_be_too_large(narrow):
    def pieces():
        for _ in range(100):
            yield b" " * 100

    answer = httpx.post(f"{narrow.url}/v1/completions", content=pieces(), headers={"content-type": "application/json"})
    fault(answer, 413, "payload_too_large")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(("body", "is_kept"), [(b"", True), (b"{}", False)])
def test_a_connection_goes_on_unless_something_is_left_in_it(narrow, body, is_kept):
    """A body that nobody reads, as that of a GET."""
    head = f"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with socket.create_connection(narrow.place, timeout=5) as connection:
        for _ in range(2 if is_kept else 1):
            connection.sendall(head)
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert (b"connection: close" in answer) is not is_kept


def test_a_body_that_never_comes(narrow):
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
    began = time.monotonic()
    assert raw(*narrow.place, head).startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("size", [1000, 3000, 300_000])
def test_headers_that_are_too_large(narrow, size):
    answer = raw(
        *narrow.place, b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-A: " + b"a" * size + b"\r\n\r\n"
    )
    status = answer.split(b"\r\n")[0]
    assert status.startswith(b"HTTP/1.1 200 " if size < 2000 else b"HTTP/1.1 431 ")
    if size > 2000:
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "headers_too_large"


def test_headers_without_an_end(narrow):
    answer = raw(*narrow.place, b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"X-A: b\r\n" * 10_000)
    assert answer.startswith(b"HTTP/1.1 431 ")


def test_headers_that_come_too_slowly(narrow):
    began = time.monotonic()
    assert raw(*narrow.place, b"GET /health HT") == b""
    assert time.monotonic() - began < 4


def test_what_is_no_http(narrow):
    answer = raw(*narrow.place, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("word", [b"websocket", b"h2c"])
def test_another_protocol_is_not_spoken(narrow, word):
    head = b"GET /health HTTP/1.1\r\nHost: a\r\nUpgrade: " + word + b"\r\nConnection: Upgrade, close\r\n\r\n"
    assert raw(*narrow.place, head).startswith(b"HTTP/1.1 200 ")


def test_more_requests_than_may_be_open(narrow):
    with socket.create_connection(narrow.place) as first:
        first.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n"
        )
        until = time.monotonic() + 5
        while narrow.service.num_open == 0:
            assert time.monotonic() < until
        answer = httpx.post(f"{narrow.url}/v1/completions", json=BODY)
        fault(answer, 429, "too_many_requests")
        assert answer.headers["retry-after"] == "1"
        assert httpx.get(f"{narrow.url}/health").status_code == 200


# ---------------------------------------------------------------- what every answer has


def test_request_ids(ask):
    assert ask.get("/health", headers={"x-request-id": "my-id_1.2"}).headers["x-request-id"] == "my-id_1.2"
    for bad in ("a b", "a" * 129, "a;b", "é".encode()):
        own = ask.get("/health", headers={"x-request-id": bad}).headers["x-request-id"]
        assert len(own) == 32
    assert ask.get("/nothing").headers["x-content-type-options"] == "nosniff"


def test_cors_only_where_it_is_said(folder, ask):
    origin = "https://a.example"
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
    }
    assert "access-control-allow-origin" not in ask.options("/v1/completions", headers=asked).headers
    with running(folder, cors_origins=(origin,), api_key=(KEY,)) as server:
        answer = httpx.options(f"{server.url}/v1/completions", headers=asked)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)
        answer = httpx.post(f"{server.url}/v1/completions", json=BODY, headers={"origin": origin, "x-api-key": KEY})
        assert answer.headers["access-control-allow-origin"] == origin
        other = httpx.options(f"{server.url}/v1/completions", headers=asked | {"origin": "https://b.example"})
        assert other.headers.get("access-control-allow-origin") != "https://b.example"


def test_behind_a_path_of_a_proxy(folder):
    with running(folder, root_path="/llada") as server:
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert httpx.get(f"{server.url}/v1/models").status_code == 200
        assert server.metric("requests_total", endpoint="/v1/models", code="200") == 1


def test_unknown_fields_may_be_ignored_and_are_told(folder):
    with running(folder, unknown_fields="ignore") as server:
        answer = httpx.post(f"{server.url}/v1/completions", json=BODY | {"a": 1, "é,\n": 2})
        assert answer.status_code == 200
        assert answer.headers["x-ignored-params"] == "a,\\xe9\\x2c\\x0a"
        assert server.metric("ignored_fields_total") == 2
        fault(httpx.post(f"{server.url}/v1/completions", json=BODY | {"top_p": 0.1}), 400, "unsupported_parameter")


def test_a_unix_socket(folder, tmp_path):
    path = str(tmp_path / "socket")
    with running(folder, uds=path) as server:
        assert server.url == f"unix:{path}"
        with httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url="http://a") as client:
            assert client.post("/v1/completions", json=BODY).status_code == 200
        with pytest.raises(ConfigError, match="cannot be had"):
            next(iter([running(folder, uds=path).__enter__()]))
    with running(folder, uds=path):  # what the first has left is stale
        pass
    (tmp_path / "file").write_text("a")
    with pytest.raises(ConfigError, match="cannot be had"):
        running(folder, uds=str(tmp_path / "file")).__enter__()
    assert (tmp_path / "file").read_text() == "a"


def test_a_port_that_is_taken(server, folder):
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(ConfigError, match="cannot be had"):
        running(folder, port=port).__enter__()


def test_every_limit_is_a_setting():
    assert {
        "max_body_bytes",
        "max_header_bytes",
        "max_concurrent_requests",
        "max_n",
        "max_prompts",
        "max_draws",
    } <= set(SETTINGS_FIELDS)
