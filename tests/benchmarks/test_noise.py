"""Figures that were measured badly say so, and decide nothing."""

import io
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from benchmarks import fixed_work, harness, matched_quality, scaling
from benchmarks.harness import Timing, interleave
from benchmarks.noise import MARK, MEANING, TICKS, Neighbours, because, doubts, mark
from benchmarks.progress import Progress
from benchmarks.readme_section import section, verdicts
from benchmarks.report import Report, faults, speed
from tests.benchmarks.fakes import FakeTime
from tests.benchmarks.test_comparisons import quality_rows
from tests.benchmarks.test_figures import row
from tests.benchmarks.test_readme_section import fixed, part, quality


@pytest.mark.parametrize(
    ("spread", "foreign", "why"),
    [
        (0.3, 0.1, []),
        (None, None, []),
        (0.31, None, ["spread 31%"]),
        (0.0, 0.11, ["other programs took 11% of the processors"]),
        (1.21, 0.5, ["spread 121%", "other programs took 50% of the processors"]),
    ],
)
def test_what_is_noisy(spread, foreign, why):
    one = {"spread": spread, "foreign_share": foreign}
    assert doubts(one) == why
    assert doubts({"spread": 0.1}, one) == why  # a ratio is as noisy as the noisier of the two
    assert mark(one) == (MARK if why else "")
    assert because(one) == (f" (noisy: {', '.join(why)})" if why else "")
    timing = Timing((1.0, 1.0 + (spread or 0.0)), (1.0, 1.0), foreign)
    assert timing.noise["foreign_share"] == foreign


# ---------------------------------------------------------------- other programs


def write_stat(proc, *, busy: int, own: int, child: int, other: int, steal: int = 0) -> None:
    """Ticks: of the first processor that we may use, of us, of a child of a child, of a stranger."""
    core = min(os.sched_getaffinity(0))
    (proc / "stat").write_text(f"cpu 9 9 9 9 9 9 9 9 0 0\ncpu{core} {busy} 0 0 77 5 0 0 {steal} 0 0\nintr 1\n")
    for pid, parent, ticks in (
        (os.getpid(), 1, own),
        (10**7, os.getpid(), 0),
        (10**7 + 1, 10**7, child),
        (2, 1, other),
    ):
        (proc / str(pid)).mkdir(exist_ok=True)
        fields = [str(parent), *["0"] * 9, str(ticks), "0", "0", "0", "20"]
        (proc / str(pid) / "stat").write_text(f"{pid} (a name) with ) S {' '.join(fields)}")


def test_what_others_took_is_what_neither_we_nor_our_children_did(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("benchmarks.noise.time.perf_counter", lambda: now[0])
    cores = len(os.sched_getaffinity(0))
    write_stat(tmp_path, busy=1000, own=100, child=50, other=300)
    neighbours = Neighbours(tmp_path)
    now[0] = 10.0
    # One core was busy for 5 of 10 seconds: us 2, our child 1, the host took 1.
    write_stat(tmp_path, busy=1000 + 4 * TICKS, own=100 + 2 * TICKS, child=50 + TICKS, other=300 + TICKS, steal=TICKS)
    assert neighbours.share() == pytest.approx((5 - 3) / (10 * cores))


def test_a_moment_is_too_short_to_tell(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("benchmarks.noise.time.perf_counter", lambda: now[0])
    write_stat(tmp_path, busy=0, own=0, child=0, other=0)
    neighbours = Neighbours(tmp_path)
    now[0] = 0.4 / len(os.sched_getaffinity(0))
    write_stat(tmp_path, busy=1, own=0, child=0, other=1)
    assert neighbours.share() is None


def test_where_the_system_does_not_tell(tmp_path):
    assert Neighbours(tmp_path).share() is None
    (tmp_path / "stat").write_text("nonsense\n")
    assert Neighbours(tmp_path).share() is None


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs /proc")
def test_a_program_that_we_did_not_start_is_seen():
    """A grandchild whose parent is gone is a stranger: what it burns counts, what we burn ourselves does not."""
    burn = "import time; end = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass"
    core = min(os.sched_getaffinity(0))
    start = (
        f"import os, subprocess, sys; os.sched_setaffinity(0, {{{core}}}); "
        f"subprocess.Popen([sys.executable, '-c', {burn!r}])"
    )
    subprocess.run([sys.executable, "-c", start], check=True)
    neighbours = Neighbours()
    time.sleep(1.0)
    # Alone on its core it takes all of it; among others they take it together.
    assert neighbours.share() > 0.5 / len(os.sched_getaffinity(0))


def test_a_timing_says_what_others_took(monkeypatch):
    monkeypatch.setattr(harness, "Neighbours", lambda: SimpleNamespace(share=lambda: 0.25))
    clock = FakeTime()
    timing = interleave({"a": lambda: clock.sleep(1)}, repeats=2, clock=clock.clock)["a"]
    assert timing.noise == {
        "spread": 0.0,
        "foreign_share": 0.25,
        "noisy": ["other programs took 25% of the processors"],
    }


def test_the_same_work_at_two_speeds_is_noise():
    """One value on two axes: a batch of one, and prompts of 64."""

    def at(axis: str, value: int, speed: float, **more) -> dict:
        setting = {"axis": axis, "value": value, "prompt_length": 64, "threads": 2, **more}
        return row("ours int8", "mdm", speed, **setting)

    rows = [at("batch", 1, 100.0, max_num_seqs=8), at("prompt_length", 64, 131.0), at("threads", 1, 50.0, threads=1)]
    rows.append(at("gen_length", 32, None))
    scaling.mark_drift(rows)
    assert [mark(each) for each in rows] == [MARK, MARK, "", ""]
    assert rows[0]["noisy"] == rows[1]["noisy"] == ["the same work differs by 31% within the run"]
    rows[1]["tokens_per_s"] = 129.0
    scaling.mark_drift(rows)
    assert [each["noisy"] for each in rows[:3]] == [[], [], []]


# ---------------------------------------------------------------- what is said of it


def test_a_noisy_figure_is_marked_in_the_table():
    quiet, noisy = row("a", "arm", 100.0), row("b", "arm", 100.0) | {"spread": 0.4}
    assert (speed(quiet), speed(noisy)) == ("100", f"100{MARK}")
    assert faults([quiet]) == []
    assert faults([quiet, noisy]) == [MEANING]
    assert faults([quiet | {"foreign_share": 0.86}]) == [f"{MEANING}. Here others took up to 86%"]


@pytest.mark.parametrize("place", [0, 5])  # ours, llama.cpp's
@pytest.mark.parametrize("noise", [{"spread": 0.31}, {"foreign_share": 0.2}])
def test_a_noisy_ratio_meets_no_target(place, noise):
    rows = quality_rows(500.0, 0.95)
    rows[place] |= noise
    (line,) = matched_quality.verdict("verse", rows)
    verdict = line.partition("llama.cpp-q8_0@1")[2].partition(";")[0]
    assert ": not decided (noisy: " in verdict
    assert "met" not in verdict


def test_what_is_less_often_right_has_missed_whatever_the_noise():
    rows = [each | {"spread": 0.9} for each in quality_rows(500.0, 0.9)]
    (line,) = matched_quality.verdict("verse", rows)
    assert line.count("MISSED") == 2


def test_a_noisy_break_even_says_so():
    setting = {"shape": "s", "line": "int8"}
    rows = [row(f"ours int8 k={k}", "mdm", 100.0 * k, **setting, tokens_per_step=k) for k in (1, 2)]
    rows += [row("torch", "arm", 50.0) | {"spread": 0.5}, row("llama.cpp-q8_0", "arm", 150.0)]
    (line,) = fixed_work.findings("s", rows)
    assert "torch 1 already (noisy: spread 50%); llama.cpp-q8_0 1.5" in line
    assert not line.endswith(")")


def test_a_noisy_ratio_is_neither_won_nor_lost():
    results: dict[str, Report] = {"matched-quality": quality(500, 100, 200), "fixed-work": fixed(80, 300, 160)}
    assert "2.50 times" in part(section(results), "Won")
    assert MEANING not in "\n".join(section(results))
    results["matched-quality"].rows[4]["spread"] = 0.8
    lines = section(results)
    assert "2.50 times" not in part(lines, "Won")
    assert "2.50 times the speed of the ARM in llama.cpp q8_0, 1 thread (noisy: spread 80%)" in part(
        lines, "Not decided"
    )
    assert f"| 0.40x{MARK} |" in "\n".join(lines)
    assert MEANING in "\n".join(lines)
    assert verdicts([(1.0, "even", "")]) == ["", "**Even**", "", "* even"]


# ---------------------------------------------------------------- how far it is


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_in_a_pipe_is_a_line_now_and_then():
    now, out = [0.0], io.StringIO()
    progress = Progress("s", 4, stream=out, clock=lambda: now[0])
    for name in "abcd":
        progress.step(name)
        now[0] += 6.0
    progress.close()
    assert out.getvalue() == "s: 2 of 4 runs in 0:12, about 0:12 to go: c\n"


def test_progress_on_a_terminal_is_one_line():
    now, out = [0.0], Terminal()
    progress = Progress("s", 2, stream=out, clock=lambda: now[0])
    for name in ("first", "b"):
        now[0] += 70.0
        progress.step(name)
    progress.close()
    first, second = "s: 0 of 2 runs in 1:10: first", "s: 1 of 2 runs in 2:20, about 2:20 to go: b"
    assert out.getvalue() == f"\r{first}\r{second}\r{' ' * len(second)}\r"


def test_a_reader_that_went_away_stops_nothing():
    out = Terminal()
    out.close()
    stream = SimpleNamespace(isatty=lambda: True, write=out.write, flush=lambda: None)
    now = [0.0]
    progress = Progress("s", 2, stream=stream, clock=lambda: now[0])
    now[0] = 70.0
    progress.step("a")
    progress.close()
