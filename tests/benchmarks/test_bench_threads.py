"""The benchmarks of threads and of loading run, in processes of their own, and leave none behind."""

import argparse
import multiprocessing

import pytest

from benchmarks import bench_load, bench_threads
from benchmarks.shapes import Shape

TINY = Shape("tiny", d_model=128, n_layers=2, mlp_hidden_size=192, vocab_size=512)
OPTIONS = argparse.Namespace(compute_type="bfloat16", threads=2, repeats=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return TINY.write(tmp_path_factory.mktemp("tiny"))


def test_threads(folder):
    rows = bench_threads.measure(TINY, folder, OPTIONS)
    assert [row["step"] for row in rows] == ["refresh", "refine"]
    for row in rows:
        assert all(row[name] > 0 for name in ("one_ms", "team_ms", "speed_up", "machine"))
    assert multiprocessing.active_children() == []


def test_load(folder):
    taken = bench_load.measure(TINY, folder, OPTIONS)
    assert set(taken) == {"llada_rt", "copy", "torch"}
    assert all(len(times) == OPTIONS.repeats and min(wall for wall, _, _ in times) > 0 for times in taken.values())


class Writer:
    """A worker without a process, that writes what nobody else writes."""

    running = 0

    def __init__(self, *_: object) -> None:
        Writer.running += 1
        self.commands, self._tokens = self, [Writer.running]

    def send(self, step: object) -> None:
        assert step in bench_threads.STEPS

    def recv(self) -> float:
        return 1.0

    def tokens(self) -> list[int]:
        return self._tokens

    def stop(self) -> None:
        Writer.running -= 1


def test_other_tokens_are_not_timed(folder, monkeypatch):
    monkeypatch.setattr(bench_threads, "Worker", Writer)
    with pytest.raises(SystemExit, match="different tokens"):
        bench_threads.measure(TINY, folder, OPTIONS)
    assert Writer.running == 0
