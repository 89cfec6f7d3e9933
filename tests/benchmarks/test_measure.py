"""What a measurement says of systems whose times and answers are known."""

import pytest

from benchmarks.baselines.contract import NotInstalled, Question
from benchmarks.measure import Entry, Exam, Measured, all_tokens, any_answer, measure
from tests.benchmarks.fakes import FakeSystem, FakeTime

QUESTIONS = [Question((first, 2, 3), 10) for first in range(4)]


def one(system: FakeSystem, time: FakeTime, **options) -> Measured:
    entry = {"check": any_answer} | {name: options.pop(name) for name in ("check", "judge") if name in options}
    outcome = measure([Entry("x", lambda: system, **entry)], QUESTIONS, clock=time.clock, **options)
    return outcome.measured[0]


def test_counts_and_times():
    time = FakeTime()
    row = one(FakeSystem(time, 0.5, padding=4), time, repeats=3, judge=lambda answers: 3)
    assert (row.rounds, row.questions, row.batch, row.right, row.share_right) == (3, 4, 1, 3, 0.75)
    assert (row.wall_s, row.cpu_s, row.spread) == (2.0, 1.0, 0.0)
    assert row.tokens == 4 * 6
    assert row.tokens_per_s == 12.0  # not the 20 that padding would make of it
    assert row.padding_share == pytest.approx(0.4)
    assert (row.nfe, row.tokens_per_forward, row.positions) == (40, 0.6, 4 * 13)
    assert row.latency_s == {"p50": 0.5, "p90": 0.5, "p99": 0.5}
    assert row.first_text_s["p50"] == 0.125
    assert row.check is row.partial is None


def test_an_exam_of_more_questions_than_are_timed():
    time = FakeTime()
    asked = [Question((first, 2, 3), 10) for first in range(10)]
    exam = Exam(asked, lambda answers: sum(answer.tokens[0] % 2 for answer in answers), batch=4)
    systems = [FakeSystem(time, 0.5), FakeSystem(time, 0.5)]
    entries = [
        Entry("a", lambda: systems[0], judge=len),
        Entry("b", lambda: systems[1], judge=len, is_examined=False),
    ]
    a, b = measure(entries, QUESTIONS, exam=exam, repeats=2, clock=time.clock).measured
    assert (a.right, a.judged, a.share_right, a.questions, a.wall_s) == (5, 10, 0.5, 4, 2.0)
    assert (b.right, b.judged, b.share_right) == (4, 4, 1.0)


def test_an_endpoint_that_dies_in_the_exam_keeps_its_first_round():
    time = FakeTime()
    system = FakeSystem(time, 0.5, dies_after=5)
    exam = Exam(QUESTIONS, len, batch=2)
    (row,) = measure([Entry("x", lambda: system, judge=lambda _: 3)], QUESTIONS, exam=exam, clock=time.clock).measured
    assert "connection reset" in row.partial
    assert (row.right, row.judged, row.rounds, row.tokens_per_s) == (3, 4, 1, 20.0)


def test_the_first_round_does_not_count_and_systems_take_turns():
    time = FakeTime()
    order = []

    class Noted(FakeSystem):
        def answer(self, questions):
            order.append(self.name)
            return super().answer(questions)

    slow_start = Noted(time, [9, 9, 1, 1, 2, 2, 3, 3], name="a")
    steady = Noted(time, 1, name="b")
    outcome = measure(
        [Entry("a", lambda: slow_start), Entry("b", lambda: steady)], QUESTIONS, batch=2, repeats=3, clock=time.clock
    )
    a, b = outcome.measured
    assert (a.wall_s, a.spread) == (4.0, 1.0)
    assert (b.wall_s, b.spread) == (2.0, 0.0)
    assert order[4:] == ["a", "a", "b", "b"] * 3
    assert not slow_start.is_open
    assert not steady.is_open


def test_batches_report_their_answers_own_times():
    time = FakeTime()
    row = one(FakeSystem(time, 0.5), time, batch=3, repeats=1)
    assert (row.batch, row.wall_s) == (3, 1.0)
    assert row.latency_s["p99"] == 0.5


def speeds(row: Measured) -> list[object]:
    return [row.tokens_per_s, row.wall_s, row.cpu_s, row.spread, row.latency_s, row.first_text_s]


def test_a_failed_check_has_no_speed_and_is_not_timed():
    time = FakeTime()
    system = FakeSystem(time, 1, padding=1)
    row = one(system, time, check=all_tokens(10))
    assert row.check == "4 answers of 9 tokens, expected 10"
    assert set(speeds(row)) == {None}
    assert system.calls == len(QUESTIONS)


def test_other_tokens_in_another_round_are_a_fault():
    time = FakeTime()
    row = one(FakeSystem(time, 1, forgets=True), time)
    assert "other tokens" in row.check
    assert set(speeds(row)) == {None}


def test_an_empty_answer_is_no_answer():
    time = FakeTime()
    assert one(FakeSystem(time, 1, padding=10), time).check == "no answer has a token"


@pytest.mark.parametrize(("calls", "rounds", "questions"), [(2, 1, 2), (6, 1, 2), (9, 1, 4), (14, 2, 4)])
def test_an_endpoint_that_dies_leaves_what_had_come(calls, rounds, questions):
    """In the warm-up or the first counted round: what came of it. Later: the whole rounds before."""
    time = FakeTime()
    system = FakeSystem(time, 0.5, dies_after=calls)
    row = one(system, time, repeats=5, judge=len)
    assert "connection reset" in row.partial
    assert (row.rounds, row.questions) == (rounds, questions)
    assert row.tokens_per_s == 20.0
    assert row.right == (4 if questions == 4 else None)
    assert system.calls == calls


def test_an_endpoint_that_dies_at_once_has_nothing():
    time = FakeTime()
    row = one(FakeSystem(time, 1, dies_after=0), time)
    assert row.check == "nothing had come"
    assert set(speeds(row)) == {None}


def test_what_is_not_installed_is_skipped_by_name():
    time = FakeTime()

    def missing():
        raise NotInstalled("llama.cpp q8_0", "llama-cpp-python")

    said = []
    outcome = measure(
        [Entry("llama.cpp q8_0", missing), Entry("x", lambda: FakeSystem(time, 1))],
        QUESTIONS,
        clock=time.clock,
        say=said.append,
    )
    assert [row.system for row in outcome.measured] == ["x"]
    assert outcome.skipped == said
    assert "llama.cpp q8_0: skipped" in said[0]
    assert "pip install 'llama-cpp-python'" in said[0]


def test_what_fails_by_itself_is_left_out_if_it_is_another_s():
    time = FakeTime()

    def broken():
        raise RuntimeError("no context for 3 sequences")

    entries = [Entry("torch", broken, may_fail=True), Entry("x", lambda: FakeSystem(time, 1))]
    outcome = measure(entries, QUESTIONS, clock=time.clock)
    assert [row.system for row in outcome.measured] == ["x"]
    assert outcome.skipped == ["torch: left out: RuntimeError: no context for 3 sequences"]


def test_a_system_is_closed_when_another_fails():
    time = FakeTime()
    system = FakeSystem(time, 1)

    def broken():
        raise RuntimeError("no weights")

    with pytest.raises(RuntimeError, match="no weights"):
        measure([Entry("x", lambda: system), Entry("y", broken)], QUESTIONS, clock=time.clock)
    assert not system.is_open
