"""Successive halving on a clock of its own: it finds what is known to be best, whatever the load, and goes on."""

import json
import math

import pytest

from llada_rt import InvalidRequestError, OutputError, SamplingParams
from llada_rt.errors import ConfigError
from llada_rt.tuning.halving import FINALISTS, Tally, choose, front, rung_sizes, survivors
from llada_rt.tuning.intervals import questions_needed, wilson
from llada_rt.tuning.space import AXES, EXACT, Setting, settings_of, settings_over
from tests.tuning.fakes import FakeEngine, figures, run

BEST = {"threshold": 0.9, "cache": "dual", "block_length": 32}


def world(params: SamplingParams) -> tuple[float, float]:
    """The lower the threshold, the faster and the worse; of those with 97 %, `BEST` is the fastest."""
    if params.threshold is None and params.factor is None:
        return 1.0, {"none": 1.0}.get(params.cache, 0.6)
    if params.factor is not None:
        return 0.6, 0.15
    share = {0.95: 1.0, 0.9: 1.0, 0.8: 0.8, 0.7: 0.7, 0.5: 0.4}[params.threshold]
    seconds = 0.25 * params.threshold - 0.05 + {"none": 0.3, "prefix": 0.1, "dual": 0.0}.get(params.cache, 0.05)
    return share, seconds + (0.02 if params.block_length == 16 else 0.0)


@pytest.fixture
def model(tmp_path):
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("right", "asked", "low", "high"),
    # Newcombe 1998, table I (method 3), and two ends.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_intervals_are_those_of_the_literature(right, asked, low, high):
    assert wilson(right, asked) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson(asked - right, asked)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_an_interval_of_nothing_is_everything():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("share", "floor"), [(1.0, 0.99), (0.98, 0.95), (0.7, 0.5)])
def test_so_many_questions_settle_it(share, floor):
    needed = questions_needed(share, floor)
    assert wilson(share * needed, needed)[0] >= floor
    assert wilson(share * (needed - 1), needed - 1)[0] < floor
    assert questions_needed(floor, floor) is None


def test_rungs_shrink_to_the_finalists():
    assert rung_sizes(112) == [112, 38, 13, 6]
    assert rung_sizes(FINALISTS) == [FINALISTS]
    assert rung_sizes(7) == [7, 6]


def tally(name: str, speed: float, right: int, asked: int = 100) -> Tally:
    return Tally(Setting(name, {"name": name}), asked=asked, right=right, tokens=int(speed), busy_s=1.0)


def test_the_front_and_the_choice():
    fast, middle, beaten, slow = (
        tally("fast", 90, 50),
        tally("middle", 60, 95),
        tally("beaten", 50, 90),
        tally("slow", 20, 99),
    )
    exact = tally("exact", 10, 99)
    assert front([slow, exact, beaten, middle, fast]) == [fast, middle, slow]
    assert choose(exact, [fast, middle, beaten, slow], 0.95) is middle
    assert choose(exact, [fast, middle, beaten, slow], 1.0) is slow
    assert choose(exact, [fast, beaten], 0.99) is exact
    assert survivors(exact, [slow, beaten, middle, fast], 1, 0.95) == [middle]
    assert beaten not in survivors(exact, [slow, beaten, middle, fast], 3, 0.95)


def test_finds_the_known_best(model):
    engine = FakeEngine(world)
    report = run(engine, model)
    assert {name: report.chosen.options.get(name) for name in BEST} == BEST
    assert report.chosen.asked == report.rows[0].asked == 400
    assert report.chosen.tokens_per_s == pytest.approx(10 / world(SamplingParams(gen_length=32, **BEST))[1], rel=0.01)
    assert report.chosen.tokens_per_forward == 2.0
    assert report.chosen.on_front
    assert report.spent_s <= 2000
    assert report.record == json.loads((model / "generation_config.json").read_text())["llada_rt"]


def test_a_load_that_comes_and_goes_changes_nothing(model):
    """Neighbours take two thirds of the machine, in waves longer than a turn: all settings lose alike."""
    engine = FakeEngine(world, load=lambda call: 2 + math.sin(call / 150))
    report = run(engine, model, budget_s=6000.0)
    assert {name: report.chosen.options.get(name) for name in BEST} == BEST


def test_a_lower_floor_picks_a_faster_point(model):
    report = run(FakeEngine(world), model, keep=0.75)
    assert report.chosen.options["threshold"] == 0.8
    assert report.chosen.options["cache"] == "dual"


def test_where_nothing_keeps_enough_the_exact_decoder_is_chosen(model):
    report = run(
        FakeEngine(lambda params: (1.0 if params.cache == "none" and params.threshold is None else 0.5, 1.0)), model
    )
    assert report.chosen.name == "exact"
    assert report.is_sure
    assert "No faster setting" in (model / "tuning" / "table.md").read_text()


def test_a_budget_that_does_not_reach_all_says_so(model):
    report = run(FakeEngine(world), model, budget_s=60.0)
    whole = settings_over(AXES, {32}, SamplingParams().over(SamplingParams()))
    assert len(report.untried) + len(report.rows) - 1 == len(whole)
    assert report.untried
    assert len(report.rows) >= 3
    assert f"did not reach {len(report.untried)} of {len(whole)}" in (model / "tuning" / "table.md").read_text()
    assert report.spent_s <= 60 + 8  # the last trial may end late


@pytest.mark.parametrize("seconds", [3.0, 9.0])
def test_a_budget_too_small_for_two_settings(model, seconds):
    """The exact decoder takes 8 s, the first other setting 1.2 s: with 3 s there is not even an exact answer."""
    with pytest.raises(InvalidRequestError, match="two settings") as caught:
        run(FakeEngine(world), model, budget_s=seconds)
    assert caught.value.param == "budget_s"
    assert "8 s" in caught.value.message
    needed = int(caught.value.hint.split()[1])
    assert needed > seconds
    engine = FakeEngine(world)
    report = run(engine, model, budget_s=needed)
    assert len(report.rows) >= 2


def test_an_interrupted_run_ends_the_same(tmp_path):
    whole = FakeEngine(world)
    expected = run(whole, tmp_path / "whole")
    stopped = tmp_path / "stopped"
    for call in (5, 40, 300):
        with pytest.raises(KeyboardInterrupt):
            run(FakeEngine(world, stop_at=call), stopped)
    last = FakeEngine(world)
    report = run(last, stopped)
    assert figures(report) == figures(expected)
    assert last.num_calls < whole.num_calls - 300  # what was done was not done again
    assert (stopped / "tuning" / "table.md").read_text() == (tmp_path / "whole" / "tuning" / "table.md").read_text()


def test_an_interrupted_run_without_answers_ends_the_same(tmp_path):
    options = {"has_answers": False, "count": 64}
    whole = FakeEngine(world)
    expected = run(whole, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        run(FakeEngine(world, stop_at=30), tmp_path / "stopped", **options)
    assert figures(run(FakeEngine(world), tmp_path / "stopped", **options)) == figures(expected)


def test_a_line_cut_short_is_asked_again(model):
    expected = run(FakeEngine(world), model)
    path = model / "tuning" / "state.jsonl"
    data = path.read_bytes()
    path.write_bytes(data[:-40])
    engine = FakeEngine(world)
    assert figures(run(engine, model)) == figures(expected)
    assert engine.num_calls == 2  # one that warms up, and the trial
    assert len(path.read_bytes().splitlines()) == len(data.splitlines())


def test_trials_of_another_run_are_refused(model):
    run(FakeEngine(world), model)
    with pytest.raises(ConfigError, match="other questions") as caught:
        run(FakeEngine(world), model, count=399)
    assert "restart" in caught.value.hint
    assert run(FakeEngine(world), model, count=399, restart=True).num_questions == 399


@pytest.mark.parametrize(
    "line", ['{"turn": 0}', "nonsense", '{"setting": {}, "turn": 0, "trial": {"busy_s": "x"}}', "[]"]
)
def test_a_state_that_is_none_is_refused(model, line):
    run(FakeEngine(world), model)
    path = model / "tuning" / "state.jsonl"
    head = path.read_text().splitlines()[0]
    path.write_text(f"{head}\n{line}\n")
    with pytest.raises(ConfigError, match="line 2: expected a trial"):
        run(FakeEngine(world), model)


def test_without_answers_the_exact_decoder_counts(model):
    """Kept is what is the same, or at least as likely: token 8 is less likely than token 7."""
    engine = FakeEngine(world)
    report = run(engine, model, has_answers=False, keep=0.75)
    assert report.quality == "agreement"
    assert report.rows[0].right == report.rows[0].same == 1.0
    row = report.chosen
    assert row.options["threshold"] == 0.8
    assert row.same == row.right == pytest.approx(0.8, abs=0.07)
    assert row.nats == pytest.approx(-2.0 * 10 / 11 * (1 - row.same))  # of ten tokens and their end
    assert engine.num_scores > 0


def test_a_likelier_answer_is_kept_without_being_the_same(model):
    engine = FakeEngine(lambda params: (0.0 if params.cache == "none" and params.threshold is None else 1.0, 1.0))
    report = run(engine, model, has_answers=False, count=16)
    assert report.rows[1].same == 0.0
    assert report.rows[1].right == 1.0
    assert report.rows[1].nats > 1


def test_settings_that_decode_alike_are_asked_once():
    defaults = SamplingParams().over(SamplingParams())
    short, long = (settings_over(AXES, {length}, defaults) for length in (16, 128))
    assert len(short) < len(long)
    assert len({setting.key for setting in long}) == len(long)
    assert EXACT.key not in {setting.key for setting in long}
    assert {setting.options["block_length"] or 16 for setting in short} == {16}
    assert not any(word in setting.name for setting in short for word in ("block_length=32", "block_length=64"))
    ways = [{name: value for name, value in each.options.items() if name != "block_length"} for each in short]
    assert all(ways.count(way) == 1 for way in ways)


def test_a_line_extends_the_space():
    defaults = SamplingParams().over(SamplingParams())
    more = settings_over(((*AXES[0], {"threshold": 0.33}), *AXES[1:]), {128}, defaults)
    plain = settings_over(AXES, {128}, defaults)
    new = [setting for setting in more if setting.options.get("threshold") == 0.33]
    assert len(more) - len(plain) == len(new) == (len(AXES[1]) - 1) * len(AXES[2])  # a window over the whole is none


def test_settings_of_the_caller():
    settings = settings_of(
        [{"threshold": 0.9, "cache": "dual", "block_size": 300}, {"preset": "fast"}, {"preset": "fast"}]
    )
    assert [setting.options.get("block_length") for setting in settings] == [300, None]
    assert settings[0].params({"gen_length": 20}, 20).block_length == 20
    assert settings[1].params({"gen_length": 20}, 20).cache == "dual"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "list of mappings"),
        ("fast", "list of mappings"),
        ([{"treshold": 0.9}], r"settings\[0\]: unknown option"),
        ([{"threshold": 2}], r"settings\[0\]: threshold"),
        ([3], r"settings\[0\]"),
        ([{"gen_length": 3}], "got gen_length"),
        ([{"cache": "none"}], "that one alone"),
    ],
)
def test_settings_that_are_none(given, words):
    with pytest.raises(InvalidRequestError, match=words):
        settings_of(given)


def test_a_folder_that_cannot_be_written_is_told_before_any_work(tmp_path, monkeypatch):
    engine = FakeEngine(world)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written") as caught:
        run(engine, tmp_path / "model", out=tmp_path / "file" / "out")
    assert "--out" in caught.value.hint
    monkeypatch.setattr("pathlib.Path.touch", lambda path: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    with pytest.raises(OutputError, match="Read-only file system"):
        run(engine, tmp_path / "model")
    assert engine.num_calls == 0


def test_progress_is_told(model):
    told = []
    report = run(FakeEngine(world), model, tell=told.append)
    assert [each.spent_s for each in told] == sorted(each.spent_s for each in told)
    assert told[0].leader is None
    assert told[-1].leader.setting.name == report.chosen.name
    assert told[-1].rung == told[-1].num_rungs
