"""The service that is measured answers as the engine does and ends with the run; its memory is judged by its growth."""

import importlib.util

import pytest

from benchmarks import service
from benchmarks.harness import Clock
from benchmarks.plan import Plan
from benchmarks.readme_section import details
from benchmarks.report import markdown
from benchmarks.service import COLUMNS, memory_findings
from tests.benchmarks.test_readme_section import ENVIRONMENT

NEEDED = ("fastapi", "uvicorn", "httpx")
needs_packages = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED), reason="the extra `service` is not installed"
)


@pytest.fixture
def plan(monkeypatch) -> Plan:
    monkeypatch.setattr("benchmarks.plan.measure_machine", lambda threads: {})
    return Plan(1, 2, clock=Clock())


@pytest.fixture
def servers(monkeypatch) -> list[service.Server]:
    """Those that were started."""
    started, begin = [], service.Server.__init__

    def noted(server, options) -> None:
        started.append(server)
        begin(server, options)

    monkeypatch.setattr(service.Server, "__init__", noted)
    return started


@needs_packages
def test_a_run(plan, servers):
    report = service.run(plan, (1, 3), 6)
    assert [(row["clients"], row["requests"], row["rounds"]) for row in report.rows] == [(1, 6, 2), (3, 6, 2)]
    for row in report.rows:
        assert row["requests_per_s"] == pytest.approx(6 / row["wall_s"])
        assert 0 < row["latency_s"]["p50"] <= row["latency_s"]["p99"]
        assert row["partial"] is None
        assert "foreign_share" in row
    assert "after 24" in report.findings[0]  # two rounds with each number of clients
    (server,) = servers
    assert server.process.poll() is not None
    report.environment = ENVIRONMENT
    text = "\n".join(details({"service": report}))
    assert "### A service" in text
    assert markdown(report.rows, COLUMNS)[0] in text


@needs_packages
def test_an_interrupted_run_keeps_its_rounds(plan, servers, monkeypatch):
    ask, rounds = service.ask_round, iter(range(100))

    async def stopped(*arguments):
        if next(rounds) == 2 + 3:  # two that warm up, then the second one with three clients is not whole
            raise KeyboardInterrupt
        return await ask(*arguments)

    monkeypatch.setattr(service, "ask_round", stopped)
    with pytest.raises(KeyboardInterrupt):
        service.run(plan, (1, 3), 6)
    assert [(row["clients"], row["rounds"]) for row in plan.under_way.rows] == [(1, 2), (3, 1)]
    assert {row["partial"] for row in plan.under_way.rows} == {"interrupted after 3 of 4 rounds"}
    assert servers[0].process.poll() is not None


@needs_packages
def test_a_wrong_answer_is_not_timed(plan, servers, monkeypatch):
    class Other(service.Engine):
        def chat(self, messages, params):
            return super().chat([{"role": "user", "content": "春眠不觉晓的下一句是什么？ 直接输出句子即可。"}])

    monkeypatch.setattr(service, "Engine", Other)
    with pytest.raises(SystemExit, match="expected the answer"):
        service.run(plan, (1,), 2)
    assert plan.under_way.rows == []
    assert servers[0].process.poll() is not None


@pytest.mark.parametrize(
    ("resident", "words"),
    [
        ([100, 90, 101], "after 30 (+1.0%): flat"),
        ([100, 101, 110], "after 30 (+10.0%): it GROWS"),
        ([100, 50], "after 20 (-50.0%): flat"),
    ],
)
def test_memory(resident, words):
    (line,) = memory_findings([each << 20 for each in resident], 10)
    assert line.endswith(words)
    assert line.startswith("resident memory of the server: 100.0 MiB after 10 requests")


def test_memory_that_is_not_known():
    assert memory_findings([None, None], 10) == []
    assert memory_findings([1], 10) == []


def test_a_service_that_cannot_start_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(service.sys, "executable", "/bin/false")
    with pytest.raises(service.ConfigError, match="ended with exit code 1"):
        service.Server({})
