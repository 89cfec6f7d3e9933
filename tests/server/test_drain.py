"""The end of a server: what is under way is finished, new requests are refused, and it never lasts for ever."""

import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time

import httpx
import pytest

from tests.server.running import ENVIRONMENT, events_of, process

TRIALS = 2
UNDER_LOAD = 32
SLOW = {"preset": "reference", "block_length": 160, "max_tokens": 160, "steps": 160}


def question(number):
    return {"prompt": "床前明月光", "max_tokens": 16, "seed": number, "temperature": 1.0, "stream": number % 2 == 0}


async def ask_all(url, started, until_sent):
    """The statuses and texts of many requests, of which each is sent before the signal."""
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=None)) as client:

        async def one(number):
            async with client.stream("POST", "/v1/completions", json=question(number)) as answer:
                return answer.status_code, (await answer.aread()).decode()

        tasks = [asyncio.create_task(one(number)) for number in range(UNDER_LOAD)]
        await until_sent(client)
        started.send_signal(signal.SIGTERM)
        return await asyncio.gather(*tasks)


async def all_sent(client):
    """Until the server has let all of them in."""
    until = time.monotonic() + 20
    while True:
        text = (await client.get("/metrics")).text
        counts = [float(line.split()[-1]) for line in text.splitlines() if line.startswith(WAITING)]
        if sum(counts) >= UNDER_LOAD - 8:
            return
        assert time.monotonic() < until, counts


WAITING = ("llada_rt_requests_running{", "llada_rt_requests_waiting{", "llada_rt_request_finished_total{")


@pytest.mark.parametrize("trial", range(TRIALS))
def test_nothing_that_was_accepted_is_lost(trial):
    with process() as (started, url):
        answers = asyncio.run(ask_all(url, started, all_sent))
        assert started.wait(30) == 0
    refused = [text for status, text in answers if status != 200]
    assert len(refused) <= 8
    for number, (status, text) in enumerate(answers):
        if status != 200:
            assert status == 503
            assert "draining" in text
        elif number % 2 == 0:
            assert text.endswith("data: [DONE]\n\n")
            assert events_of(text)[-2]["choices"][0]["finish_reason"]
        else:
            assert '"finish_reason"' in text
            assert text.endswith("}")


def test_while_it_drains_it_says_so():
    with process() as (started, url):
        asking = threading.Thread(
            target=httpx.post, args=(f"{url}/v1/completions",), kwargs={"json": {"prompt": "a"} | SLOW, "timeout": 60}
        )
        asking.start()
        wait_until(lambda: "llada_rt_requests_running" in running_line(url))
        started.send_signal(signal.SIGTERM)
        began = time.monotonic()
        wait_until(lambda: httpx.get(f"{url}/ready").status_code == 503)
        assert time.monotonic() - began < 1
        answer = httpx.post(f"{url}/v1/completions", json={"prompt": "a"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["connection"] == "close"
        assert httpx.get(f"{url}/health").status_code == 200
        asking.join()
        assert started.wait(30) == 0


def running_line(url):
    """The line of /metrics that says that a request runs."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return "".join(
        line for line in lines if line.startswith("llada_rt_requests_running{") and not line.endswith(" 0.0")
    )


def wait_until(holds):
    until = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", ["limit", "second signal"])
def test_what_does_not_end_in_time_is_aborted_and_told(stream, how):
    answers = []
    body = {"prompt": "a", "n": 16, "stream": stream} | SLOW

    def ask(url):
        answers.append(httpx.post(f"{url}/v1/completions", json=body, timeout=60))

    with process("--shutdown-timeout", "0.2" if how == "limit" else "60") as (started, url):
        asking = threading.Thread(target=ask, args=(url,))
        asking.start()
        wait_until(lambda: running_line(url))
        started.send_signal(signal.SIGTERM)
        if how != "limit":
            time.sleep(0.3)
            started.send_signal(signal.SIGINT)
        assert started.wait(20) == 1
        assert "1 requests were aborted" in started.stderr.read()
        asking.join()
    (answer,) = answers
    told = events_of(answer.text)[-1] if stream else answer.json()
    assert told["error"]["code"] == "draining"
    assert answer.status_code == (200 if stream else 503)


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_leaves_at_once(kind):
    with process() as (started, url):
        assert httpx.get(f"{url}/ready").status_code == 200
        began = time.monotonic()
        started.send_signal(kind)
        assert started.wait(10) == 0
        assert time.monotonic() - began < 3


def test_it_starts_without_arguments_in_two_seconds_on_loopback():
    began = time.monotonic()
    with process() as (_, url):
        assert httpx.get(f"{url}/ready").status_code == 200
        assert time.monotonic() - began < 6  # alone it takes less than two; tests may run beside others
        assert url.startswith("http://127.0.0.1:")
        (model,) = httpx.get(f"{url}/v1/models").json()["data"]
        assert model["id"] == "llada-rt-demo"


def test_keys_are_read_again_on_sighup(tmp_path):
    path = tmp_path / "keys"
    path.write_text("first-key-1\n")
    with process("--api-key-file", str(path)) as (started, url):
        headers = {"x-api-key": "second-key-2"}
        assert httpx.get(f"{url}/v1/models", headers=headers).status_code == 401
        path.write_text("second-key-2\n")
        started.send_signal(signal.SIGHUP)
        wait_until(lambda: httpx.get(f"{url}/v1/models", headers=headers).status_code == 200)
        path.unlink()
        started.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert httpx.get(f"{url}/v1/models", headers=headers).status_code == 200


def test_settings_come_from_the_environment_and_flags_go_before(tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text('served_model_name = ["from-file"]\nmax_n = 2\nlog_format = "json"\n')
    environment = {"LLADA_RT_CONFIG": str(path), "LLADA_RT_MAX_N": "3"}
    with process("--max-prompts", "1", "--log-level", "info", environment=environment) as (started, url):
        assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == "from-file"
        url += "/v1/completions"
        assert httpx.post(url, json={"prompt": "a", "n": 3, "max_tokens": 1}).status_code == 200
        assert httpx.post(url, json={"prompt": "a", "n": 4}).json()["error"]["param"] == "n"
        assert httpx.post(url, json={"prompt": ["a", "b"]}).json()["error"]["param"] == "prompt"
        started.send_signal(signal.SIGTERM)
        assert started.wait(10) == 0
        lines = started.stderr.read().splitlines()
    told = [json.loads(line) for line in lines if '"llada_rt.server"' in line]
    assert [each["status"] for each in told] == [200, 200, 400, 400]
    assert {each["level"] for each in told} == {"info"}


def test_listening_for_everybody_without_a_key_is_told(tmp_path):
    for arguments, is_told in ((("--host", "0.0.0.0"), True), (("--host", "0.0.0.0", "--api-key", "a-key-00"), False)):
        with process(*arguments) as (started, url):
            assert url.startswith("http://0.0.0.0:")
            started.send_signal(signal.SIGTERM)
            assert started.wait(10) == 0
            assert ("without an API key" in started.stderr.read()) is is_told


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl on this system")
def test_tls(tmp_path):
    certificate, key = str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    subprocess.run([*made, *names], capture_output=True, check=True)
    with process("--ssl-certfile", certificate, "--ssl-keyfile", key) as (_, url):
        assert url.startswith("https://127.0.0.1:")
        trusted = ssl.create_default_context(cafile=certificate)
        answer = httpx.post(f"{url}/v1/completions", json={"prompt": "a", "max_tokens": 2}, verify=trusted)
        assert answer.status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
    done = command("--ssl-certfile", key, "--ssl-keyfile", certificate)
    assert done.returncode == 2
    assert "ssl_certfile" in done.stderr


# ---------------------------------------------------------------- the command


def command(*arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", "llada_rt", "serve", *arguments],
        env=ENVIRONMENT | more.pop("environment", {}),
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("-m", "nowhere"), 3, "nowhere"),
        (("--port", "65536"), 2, "65535"),
        (("--config", "nowhere.toml"), 2, "cannot be read"),
        (("--api-key", "short"), 2, "keys of 8 to 1024"),
        (("--host", "nowhere.invalid"), 2, "cannot be listened on"),
        (("--max-num-seqs", "0"), 2, "max_num_seqs"),
        (("--no-such-flag",), 2, "no-such-flag"),
    ],
)
def test_what_the_command_refuses(arguments, code, message):
    done = command(*arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_without_the_extra_the_command_says_what_to_install(package, tmp_path):
    """A package of this name that is not there."""
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError('No module', name={package!r})\n")
    path = f"{tmp_path}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"
    done = command(environment={"PYTHONPATH": path})
    assert done.returncode == 2
    assert f"needs the package {package}" in done.stderr
    assert "pip install 'llada-rt[server]'" in done.stderr


def test_the_package_without_a_server_imports_nothing_of_one():
    program = (
        "import sys, llada_rt\nfrom llada_rt import Engine, AsyncEngine\nimport llada_rt.cli.app\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert not {"fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client"} & set(done.stdout.split())
