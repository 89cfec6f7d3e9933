"""Reports that come back as they were, and what is slower than it was."""

import io
import json

import pytest
from rich.console import Console

from benchmarks import regression
from benchmarks.baselines.contract import Question
from benchmarks.measure import Entry, measure
from benchmarks.noise import MARK
from benchmarks.report import COLUMNS, Report, load_report, markdown, number, show
from llada_rt import ConfigError, OutputError
from tests.benchmarks.fakes import FakeSystem, FakeTime

QUESTIONS = [Question((first, 2, 3), 10) for first in range(4)]
HERE = {"cpu": "EPYC", "threads": 2, "table": "avx512", "commit": "abc"}
NOISE = [1.0, 1.05, 0.98, 1.02, 1.01, 0.97]


class Slowed:
    """A system that sleeps before it answers: what a slower build looks like from outside."""

    def __init__(self, system: FakeSystem, time: FakeTime, seconds: float) -> None:
        self.system, self.time, self.seconds = system, time, seconds
        self.name, self.kind, self.close = system.name, system.kind, system.close

    def answer(self, questions):
        self.time.sleep(self.seconds)
        return self.system.answer(questions)


def report(*, seconds=NOISE, extra=0.0, environment=HERE, machine=None, **options) -> Report:
    time = FakeTime()
    system = Slowed(FakeSystem(time, seconds, **options), time, extra)
    outcome = measure([Entry("ours", lambda: system)], QUESTIONS, repeats=5, clock=time.clock)
    rows = [row.to_dict() for row in outcome.measured]
    return Report("latency", "a test", environment, machine or {"int8": 1e12, "read": 4e10}, rows=rows)


def test_two_runs_of_the_same_agree_within_their_spread():
    first, second = report(), report(seconds=NOISE[3:] + NOISE[:3])
    assert not regression.compare(first, second).is_slower
    assert not regression.compare(second, first).is_slower
    assert abs(first.rows[0]["wall_s"] / second.rows[0]["wall_s"] - 1) <= first.rows[0]["spread"]


def test_a_slowed_system_is_caught():
    verdict = regression.compare(report(), report(extra=0.2))
    assert verdict.is_slower
    (change,) = [c for c in verdict.changes if c.measure == "all answers"]
    assert change.growth == pytest.approx(0.2, abs=0.03)
    assert change.allowed == pytest.approx(0.1, abs=0.05)
    out = io.StringIO()
    regression.show(verdict, Console(file=out, width=120))
    assert "SLOWER" in out.getvalue()
    assert "+20%" in out.getvalue()


def test_a_noisy_measure_carries_its_mark():
    now = report(extra=0.2)
    now.rows[0]["foreign_share"] = 0.5
    verdict = regression.compare(report(), now)
    assert verdict.is_slower  # whoever asked must look: a busy machine is no excuse, and no proof
    out = io.StringIO()
    regression.show(verdict, Console(file=out, width=120))
    assert f"+20%{MARK}" in out.getvalue()
    assert "other programs" in out.getvalue()
    quiet = io.StringIO()
    regression.show(regression.compare(report(), report(extra=0.2)), Console(file=quiet, width=120))
    assert MARK not in quiet.getvalue()


def test_a_faster_system_is_fine():
    assert not regression.compare(report(extra=0.5), report()).is_slower


def test_noise_allows_what_it_hides():
    noisy = [1, 2, 1, 2, 1.5, 1.5, 1, 1, 2, 2]
    assert not regression.compare(report(seconds=noisy), report(seconds=noisy, extra=0.2)).is_slower


def test_a_slower_machine_allows_as_much():
    lame = {"int8": 0.8e12, "read": 4e10}
    assert not regression.compare(report(), report(extra=0.3, machine=lame)).is_slower
    assert regression.compare(report(), report(extra=0.5, machine=lame)).is_slower


def test_a_speed_that_is_gone_counts_as_slower():
    verdict = regression.compare(report(), report(forgets=True))
    assert (verdict.is_slower, list(verdict.missing)) == (True, ["ours"])


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (report(environment=HERE | {"cpu": "Xeon"}), "measured elsewhere.*Xeon.*EPYC"),
        (Report("throughput", "", HERE), "expected a report of throughput"),
        (Report("latency", "", HERE), "no measure is in both"),
    ],
)
def test_what_cannot_be_compared(now, words):
    with pytest.raises(ConfigError, match=words):
        regression.compare(report(), now)


def test_a_report_comes_back_as_it_was(tmp_path):
    written = report(padding=3)
    path = written.save(tmp_path / "new" / "folder")
    assert load_report(path) == written
    (line,) = (path.parent / "results.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record["bench"], record["commit"], record["tokens"]) == ("latency", "abc", 28)


@pytest.mark.parametrize("text", ["", "{}", "[1, 2]", '{"bench": "latency"', '{"nonsense": 1}'])
def test_a_file_that_is_no_report(tmp_path, text):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"report\.json: expected the JSON"):
        load_report(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_report(tmp_path / "none.json")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        report().save(tmp_path / "file")


def test_the_table_says_why_there_is_no_speed():
    out = io.StringIO()
    failed, partial = report(forgets=True), report(seconds=1, dies_after=10)
    failed.rows += partial.rows
    failed.skipped = ["vLLM: skipped: not installed"]
    show(failed, console=Console(file=out, width=200))
    text = out.getvalue()
    assert "check failed" in text
    assert "ours: check failed, no speed: 4 answers" in text
    assert "10.0*" in text
    assert "partial (*): fake: 0 of 1 answers came, then: connection reset" in text
    assert "vLLM: skipped" in text
    assert "10.0" not in markdown(failed.rows[:1], COLUMNS)[-1]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (1234.5, "1,234"), (150, "150"), (15.04, "15.0"), (0.012345, "0.0123"), (2, "2.00"), (0, "0.00")],
)
def test_numbers(value, text):
    assert number(value) == text
