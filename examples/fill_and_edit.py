"""What only diffusion has: holes, a text written anew in places, how likely an answer is.

python examples/fill_and_edit.py [http://127.0.0.1:8000]
"""

import json
import sys
import urllib.request
from typing import Any


def ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def main(url: str) -> None:
    # A number is a hole of so many tokens; [least, most] lets the model choose the length.
    filled = ask(f"{url}/v1/infill", {"segments": ["白日依山", 1, "，黄", {"hole": [2, 4]}, "流。"]})
    print("filled:", filled["choices"][0]["text"])

    text = "白日依江尽，黄河入海流。"
    at = text.index("江")
    edited = ask(f"{url}/v1/edit", {"text": text, "spans": [{"start": at, "end": at + 1}]})
    print("edited:", edited["choices"][0]["text"], edited["choices"][0]["edits"])

    for answer in ("山尽", "水尽"):
        score = ask(f"{url}/v1/score", {"prompt": "白日依", "answer": answer, "mc_num": 64})
        print(f"score of {answer}: {score['log_likelihood']:.2f} +- {score['standard_error']:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:] or ["http://127.0.0.1:8000"])
