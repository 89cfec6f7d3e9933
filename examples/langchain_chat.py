"""LangChain's ChatOpenAI against llada-rt serve.

python examples/langchain_chat.py [http://127.0.0.1:8000]
"""

import sys

from langchain_openai import ChatOpenAI
from pydantic import BaseModel

QUESTIONS = [f"{line}的下一句是什么？ 直接输出句子即可。" for line in ("床前明月光", "白日依山尽")]


class Answer(BaseModel):
    known: bool


def main(url: str) -> None:
    common = {"base_url": f"{url}/v1", "api_key": "none", "model": "llada-rt-demo"}
    chat = ChatOpenAI(**common, extra_body={"preset": "fast"})
    print("invoke:", chat.invoke(QUESTIONS[0]).content)
    print("stream:", "|".join(part.content for part in chat.stream(QUESTIONS[0]) if part.content))
    print("batch:", *(answer.content for answer in chat.batch(QUESTIONS)))
    form = ChatOpenAI(**common, max_tokens=24).with_structured_output(Answer, method="json_schema")
    print("form:", form.invoke(QUESTIONS[0]))
    newer = ChatOpenAI(**common, use_responses_api=True).invoke(QUESTIONS[0])
    print("responses:", newer.text if isinstance(newer.text, str) else newer.text())


if __name__ == "__main__":
    main(*sys.argv[1:] or ["http://127.0.0.1:8000"])
