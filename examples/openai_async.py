"""Many requests at a time with OpenAI's async client: the server runs them together.

python examples/openai_async.py [http://127.0.0.1:8000]
"""

import asyncio
import sys

import openai

LINES = ["床前明月光", "白日依山尽", "春眠不觉晓", "锄禾日当午"]


async def ask(client: openai.AsyncOpenAI, model: str, line: str) -> str:
    question = f"{line}的下一句是什么？ 直接输出句子即可。"
    stream = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], stream=True
    )
    text = ""
    async for chunk in stream:
        text += chunk.choices[0].delta.content or ""
    return text


async def main(url: str) -> None:
    # The client tries again by itself when a queue is full (429) or a server drains (503).
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=5) as client:
        model = (await client.models.list()).data[0].id
        for line, text in zip(LINES, await asyncio.gather(*(ask(client, model, line) for line in LINES)), strict=True):
            print(f"{line} -> {text}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:] or ["http://127.0.0.1:8000"]))
