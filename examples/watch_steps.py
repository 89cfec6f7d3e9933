"""The canvas as it fills: a denoise stream, read with nothing but the standard library.

python examples/watch_steps.py [http://127.0.0.1:8000]
"""

import json
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

QUESTION = "床前明月光的下一句是什么？ 直接输出句子即可。"


def events(url: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of a stream, in order."""
    data = json.dumps(body | {"stream": True}).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        for line in answer:
            if line.startswith(b"data: ") and line != b"data: [DONE]\n":
                yield json.loads(line.removeprefix(b"data: "))


def main(url: str) -> None:
    body = {"messages": [{"role": "user", "content": QUESTION}], "stream_mode": "denoise", "gen_length": 8}
    canvas: list[str] = []
    for event in events(f"{url}/v1/chat/completions", body):
        if "error" in event:
            sys.exit(event["error"]["message"])
        step = event.get("diffusion")
        if step is None:
            continue
        if "canvas" in step:
            canvas = ["░" if token is None else token["text"] for token in step["canvas"]]
        for token in step["committed"]:
            canvas[token["position"]] = token["text"]
        print(f"{step['nfe']:3}  {''.join(canvas)}")


if __name__ == "__main__":
    main(*sys.argv[1:] or ["http://127.0.0.1:8000"])
