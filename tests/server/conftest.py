"""Servers on free ports of loopback, in threads of the test process; the tiny model, which speaks characters."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

NEEDED = ("fastapi", "uvicorn", "prometheus_client", "httpx", "openai")
if any(importlib.util.find_spec(name) is None for name in NEEDED):
    collect_ignore_glob = ["test_*.py"]  # the extra `server` is not installed
else:
    import httpx
    import openai

    from tests.engine.models import write_folder
    from tests.server.running import Running, check_quiet, running

    GENERATION = {"llada_rt": {"gen_length": 12, "steps": 12, "block_length": 4, "preset": "quality"}}

    @pytest.fixture(scope="session")
    def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
        return write_folder(tmp_path_factory.mktemp("served") / "tiny", generation=GENERATION)

    @pytest.fixture(scope="session")
    def shared_server(folder: Path) -> Iterator[Running]:
        with running(folder, page=True) as server:
            yield server

    @pytest.fixture
    def server(shared_server: Running) -> Iterator[Running]:
        """One for all tests; each must leave it without a request."""
        yield shared_server
        check_quiet(shared_server)

    @pytest.fixture
    def ask(server: Running) -> Iterator[httpx.Client]:
        """A plain HTTP client."""
        with httpx.Client(base_url=server.url, timeout=30) as client:
            yield client

    @pytest.fixture
    def client(server: Running) -> Iterator[openai.OpenAI]:
        """OpenAI's own client."""
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="not-needed", max_retries=0, timeout=30) as made:
            yield made
