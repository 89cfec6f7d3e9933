"""OpenAI's own client against llada-rt serve.

python examples/openai_client.py [http://127.0.0.1:8000]
"""

import json
import sys

import openai

QUESTION = {"role": "user", "content": "床前明月光的下一句是什么？ 直接输出句子即可。"}
POEM = {"role": "user", "content": "背诵王之涣的《登鹳雀楼》。"}


def main(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    model = client.models.list().data[0].id

    answer = client.chat.completions.create(model=model, messages=[QUESTION])
    print("answer:", answer.choices[0].message.content, answer.usage.completion_tokens, "tokens")

    # Options of diffusion go through extra_body, under the names that SamplingParams has.
    fast = client.chat.completions.create(model=model, messages=[QUESTION], extra_body={"preset": "fast"})
    print("fast:", fast.choices[0].message.content, fast.choices[0].diffusion["tokens_per_forward"], "tokens a forward")

    # Blocks make a text appear from left to right.
    blocks = {"preset": "quality", "block_length": 8}
    print("stream:", end=" ")
    for chunk in client.chat.completions.create(
        model=model, messages=[POEM], max_tokens=32, stream=True, extra_body=blocks
    ):
        print(chunk.choices[0].delta.content or "", end="|", flush=True)
    print()

    schema = {"type": "object", "properties": {"known": {"type": "boolean"}}, "required": ["known"]}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    told = client.chat.completions.create(model=model, messages=[QUESTION], max_tokens=24, response_format=form)
    print("json:", json.loads(told.choices[0].message.content))

    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    try:
        client.chat.completions.create(model=model, messages=[QUESTION], tools=[tool])
    except openai.BadRequestError as error:
        print("refused:", error.body["message"])


if __name__ == "__main__":
    main(*sys.argv[1:] or ["http://127.0.0.1:8000"])
