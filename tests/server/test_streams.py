"""Streams joined are the answers, byte for byte: random requests, asked twice at the same time as others."""

import asyncio
import random

import httpx
import pytest

from tests.server.running import events_of, running

NUM_REQUESTS = 600
AT_ONCE = 16
WORDS = "床前明月光疑是地上霜举头望低思故乡 abcXYZ\n"


def random_request(chance: random.Random) -> tuple[str, dict]:
    """A path and a body."""
    text = "".join(chance.choices(WORDS, k=chance.randint(1, 12)))
    length = chance.randint(1, 24)
    body = {
        "max_tokens": length,
        "temperature": chance.choice([0.0, 0.5, 1.0, 2.0]),
        "seed": chance.randrange(2**32),
        "n": chance.choice([1, 1, 1, 2, 3]),
        "block_length": chance.choice([None, chance.randint(1, length)]),
        "preset": chance.choice(["quality", "balanced", "fast"]),
        "logprobs": chance.choice([None, 0, 2]),
    }
    if chance.random() < 0.5:
        body["stop"] = ["".join(chance.choices(WORDS, k=chance.randint(1, 2))) for _ in range(chance.randint(1, 4))]
        body["include_stop_str_in_output"] = chance.random() < 0.3
    path = chance.choice(["/v1/completions", "/v1/completions", "/v1/chat/completions", "/v1/infill", "/v1/responses"])
    if path == "/v1/completions":
        body["prompt"] = chance.choice([text, [text, text[::-1] + "a"], [1, 2, 3]])
        if chance.random() < 0.2 and "stop" not in body:
            body["suffix"] = text
        if body["logprobs"] is None:
            body["echo"] = chance.random() < 0.3
    elif path == "/v1/chat/completions":
        body["messages"] = [{"role": "user", "content": text}]
        alternatives = body.pop("logprobs")
        body |= {"logprobs": alternatives is not None, "top_logprobs": alternatives or None}
    elif path == "/v1/infill":
        body = {key: value for key, value in body.items() if not key.endswith("output") and key != "stop"}
        body["segments"] = [text, chance.randint(1, 5), "月", chance.randint(1, 5), "。" * chance.randint(0, 1)]
    else:
        body.pop("logprobs")
        body |= {"input": text, "n": 1}
    if path != "/v1/responses":
        body["stream_mode"] = chance.choice(["append", "denoise"])
    return path, body


def answer_of(told: dict) -> dict[int, tuple]:
    """Text, end and log-probabilities of each choice."""
    if told["object"] == "response":
        return {0: (told["output"][0]["content"][0]["text"], told["status"], None)}
    return {
        choice["index"]: (
            choice.get("text", choice.get("message", {}).get("content")),
            choice["finish_reason"],
            choice["logprobs"],
        )
        for choice in told["choices"]
    }


def joined(events: list) -> dict[int, tuple]:
    """The same of a stream."""
    if events[0].get("type") == "response.created":
        text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
        return {0: (text, events[-1]["type"].removeprefix("response."), None)}
    assert events[-1] == "[DONE]"
    texts, ends, logprobs = {}, {}, {}
    for choice in (choice for event in events[:-1] for choice in event["choices"]):
        index = choice["index"]
        delta = choice["text"] if "text" in choice else choice["delta"].get("content", "")
        texts[index] = texts.get(index, "") + delta
        assert ends.get(index) is None, "nothing comes after the end"
        ends[index] = choice["finish_reason"]
        for name, values in (choice["logprobs"] or {}).items():
            logprobs.setdefault(index, {}).setdefault(name, []).extend(values)
    return {index: (text, ends[index], logprobs.get(index)) for index, text in texts.items()}


def test_streams_of_random_requests_are_their_answers(folder):
    chance = random.Random(18)
    requests = [random_request(chance) for _ in range(NUM_REQUESTS)]

    async def both(client, gate, path, body):
        async with gate:
            whole = await client.post(path, json={name: each for name, each in body.items() if name != "stream_mode"})
            stream = await client.post(path, json=body | {"stream": True})
            return whole, stream

    async def all_of_them(url):
        gate = asyncio.Semaphore(AT_ONCE)
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            return await asyncio.gather(*(both(client, gate, path, body) for path, body in requests))

    with running(folder) as server:
        answers = asyncio.run(all_of_them(server.url))
    num_pieces = num_texts = 0
    for (path, body), (whole, stream) in zip(requests, answers, strict=True):
        assert whole.status_code == stream.status_code == 200, (body, whole.text)
        events = events_of(stream.text)
        assert joined(events) == answer_of(whole.json()), (path, body)
        num_pieces += len(events)
        num_texts += len(answer_of(whole.json()))
    assert num_texts > NUM_REQUESTS
    assert num_pieces > 4 * num_texts


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/infill", "/v1/responses"])
def test_the_form_on_the_wire(ask, path):
    body = {
        "/v1/completions": {"prompt": "a"},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
        "/v1/infill": {"segments": ["a", 2]},
        "/v1/responses": {"input": "a"},
    }[path]
    answer = ask.post(path, json=body | {"stream": True})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert "content-length" not in answer.headers
    assert answer.text.endswith("\n\n")
    for part in answer.text.removesuffix("\n\n").split("\n\n"):
        lines = part.split("\n")
        assert lines[-1].startswith("data: ")
        assert len(lines) == (2 if path == "/v1/responses" else 1)
    assert answer.text.endswith("data: [DONE]\n\n") == (path != "/v1/responses")
