"""The service that bench_service measures: the whole of what FastAPI needs around AsyncEngine. The demo model.

python -m benchmarks.service_app '{"threads": 2}'     # engine options; prints the port, serves until SIGTERM
"""

import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from llada_rt import AsyncEngine, SamplingParams


class ChatRequest(BaseModel):
    messages: list[dict[str, str]]
    params: dict[str, Any] = {}


class ChatAnswer(BaseModel):
    text: str
    finish_reason: str | None


def make_app(engine_options: dict[str, Any]) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with await AsyncEngine.open(**engine_options) as engine:
            app.state.engine = engine
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/chat")
    async def chat(request: ChatRequest) -> ChatAnswer:
        output = await app.state.engine.chat(request.messages, SamplingParams(**request.params))
        return ChatAnswer(text=output.text, finish_reason=output.outputs[0].finish_reason)

    return app


def main() -> None:
    # By its protocol asyncio knows a connection for TCP's and sends small pieces at once; else each answer waits 40 ms.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(256)
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(make_app(json.loads(sys.argv[1])), log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
