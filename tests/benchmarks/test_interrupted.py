"""Ctrl-C keeps what had been measured, says so, and leaves with 130."""

import json

import pytest

from benchmarks import engine_system, harness, serve_trace
from benchmarks.measure import Entry, Interrupted, measure
from benchmarks.report import load_report
from llada_rt.cli import app as cli
from tests.benchmarks.fakes import FakeSystem, FakeTime
from tests.benchmarks.test_bench_command import TINY
from tests.benchmarks.test_measure import QUESTIONS


class Stopped(FakeSystem):
    """Ctrl-C comes in its call of that number."""

    def __init__(self, time: FakeTime, at: int) -> None:
        super().__init__(time, 0.5, name="stopped")
        self.at = at

    def answer(self, questions):
        if self.calls == self.at:
            raise KeyboardInterrupt
        return super().answer(questions)


def interrupted(at: int) -> tuple[list, FakeSystem]:
    time = FakeTime()
    whole = FakeSystem(time, 0.25)
    entries = [Entry("whole", lambda: whole), Entry("stopped", lambda: Stopped(time, at))]
    with pytest.raises(Interrupted) as stop:
        measure(entries, QUESTIONS, repeats=3, clock=time.clock)
    assert isinstance(stop.value, KeyboardInterrupt)
    return stop.value.outcome.measured, whole


def test_whole_rounds_are_kept():
    rows, whole = interrupted(4 + 4 + 2)  # four questions a round: in the second that is timed
    assert [row.system for row in rows] == ["whole", "stopped"]
    assert [row.rounds for row in rows] == [2, 1]
    assert [row.partial for row in rows] == [f"interrupted after {n} of 3 rounds" for n in (2, 1)]
    assert [row.wall_s for row in rows] == [1.0, 2.0]
    assert not whole.is_open


def test_of_a_system_that_was_not_yet_warm_nothing_is_said():
    rows, whole = interrupted(2)
    assert [row.system for row in rows] == ["whole"]
    assert rows[0].partial == "interrupted after 0 of 3 rounds: its figures are of the round that warms up"
    assert not whole.is_open


@pytest.fixture
def run(capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as leaving:
            cli.main(["bench", *arguments])
        out, err = capsys.readouterr()
        return leaving.value.code, out, err

    return call


def stop_at(monkeypatch, call: int) -> None:
    """Ctrl-C in that call of the engine."""
    answer, calls = engine_system.EngineSystem.answer, iter(range(1000))

    def counted(system, asked):
        if next(calls) == call:
            raise KeyboardInterrupt
        return answer(system, asked)

    monkeypatch.setattr(engine_system.EngineSystem, "answer", counted)


def test_the_command_line_writes_what_it_has(run, tmp_path, monkeypatch):
    stop_at(monkeypatch, 3 * 2 + 2)  # one by one three rounds of two calls; of both at once two of three
    options = ["--batches", "1,2", "--repeats", "2", "--output", str(tmp_path)]
    code, out, err = run("throughput", *TINY, *options)
    assert code == 130
    assert "interrupted: keeping 2 rows" in err
    assert "Traceback" not in err
    report = load_report(tmp_path / "throughput.json")
    first, second = report.rows
    assert (first["batch"], first["rounds"], first["partial"]) == (1, 2, None)
    assert (second["batch"], second["partial"]) == (2, "interrupted after 1 of 2 rounds")
    assert "interrupted: what is missing was not measured" in report.skipped
    assert "partial (*)" in out
    assert (tmp_path / "throughput.html").exists()


def test_nothing_measured_is_nothing_written(run, tmp_path, monkeypatch):
    stop_at(monkeypatch, 0)
    code, out, err = run("latency", *TINY, "--output", str(tmp_path))
    assert (code, out) == (130, "")
    assert "interrupted before anything was measured" in err
    assert list(tmp_path.iterdir()) == []


def test_requests_that_had_come_are_kept(run, monkeypatch):
    serve = serve_trace.serve

    async def stopped(engine, work, times, *, done):
        await serve(engine, work[:3], times[:3], done=done)
        raise KeyboardInterrupt

    monkeypatch.setattr(serve_trace, "serve", stopped)
    code, out, _ = run("serve-trace", *TINY, "--requests", "5", "--rate", "200", "--json", "--preset", "quality")
    assert code == 130
    (row,) = json.loads(out)["rows"]
    assert (row["questions"], row["partial"]) == (3, "interrupted after 3 of 5 requests, which were not checked")


def test_a_benchmark_of_its_own_says_where_its_results_are(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(harness, "_num_stored", 0)
    monkeypatch.setattr(harness, "_stored_in", None)

    def main() -> None:
        harness.store(tmp_path / "runs.jsonl", {"a": 1})
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as leaving:
        harness.run_to_the_end(main)
    assert leaving.value.code == 130
    assert f"interrupted: results that were whole are kept in {tmp_path / 'runs.jsonl'}: 1\n" in capsys.readouterr().err
