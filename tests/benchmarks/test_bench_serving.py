"""The serving benchmark compares like with like: the padded batch computes what it says, arrivals keep their rate."""

import asyncio
import json
import math

import pytest
import torch

from benchmarks import bench_serving
from benchmarks.arrivals import Latency, arrival_times, percentile, serve
from benchmarks.baselines.padded_batch import PaddedBatch
from benchmarks.harness import store
from llada_rt import AsyncEngine, Engine, SamplingParams
from tests.data.make_goldens import CHECKPOINT
from training.model import LLaDA

LONG, SHORT = [7, 99, 23, 4, 81, 12, 140], [99, 4, 12]
BLOCK_LENGTH, NUM_STEPS = 8, 3


@pytest.fixture(scope="module")
def model() -> LLaDA:
    return LLaDA.from_folder(CHECKPOINT, dtype=torch.float32)


def params_of(gen_length: int) -> SamplingParams:
    steps = gen_length // BLOCK_LENGTH * NUM_STEPS
    return SamplingParams(
        preset="reference", gen_length=gen_length, block_length=BLOCK_LENGTH, steps=steps, cache="dual"
    )


def alone(prompt: list[int], gen_length: int) -> list[int]:
    with Engine(CHECKPOINT, compute_type="float32", threads=1) as engine:
        return engine.generate(prompt, params_of(gen_length))[0].outputs[0].token_ids


@pytest.mark.parametrize("lean", [False, True], ids=["published", "lean"])
def test_padded_batch(model, lean):
    """Every row is the answer to its padded prompt, cut to what was asked for."""
    batch = PaddedBatch(model, [LONG, SHORT], [8, 16], block_length=BLOCK_LENGTH, num_steps=NUM_STEPS, lean=lean)
    batch.warm_up()
    padded = [model.config.pad_token_id] * (len(LONG) - len(SHORT)) + SHORT
    assert batch.run() == [alone(LONG, 16)[:8], alone(padded, 16)]


def test_arrival_times():
    times = arrival_times(rate=5.0, count=4000)
    assert times == sorted(times) == arrival_times(5.0, 4000)
    gaps = [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]
    assert len(gaps) == 4000
    mean = math.fsum(gaps) / 4000
    deviation = math.sqrt(math.fsum((gap - mean) ** 2 for gap in gaps) / 4000)
    assert 0.19 < mean < 0.21  # seconds: four standard errors of 0.2 / sqrt(4000)
    assert 0.18 < deviation < 0.22  # of an exponential distribution it equals the mean


def test_percentile():
    values = list(range(200, 0, -1))
    assert [percentile(values, percent) for percent in (50, 99, 100)] == [100, 198, 200]
    assert percentile([3.0], 50) == percentile([3.0], 99) == 3.0


def test_serve():
    """Waits are counted from the time a request was due, in the order of what they wait for."""
    work = [(LONG, params_of(16)), (SHORT, params_of(8))]

    async def run() -> list[Latency]:
        async with AsyncEngine(CHECKPOINT, compute_type="float32", threads=1) as engine:
            return await serve(engine, work, [-5.0, 0.1])

    late, fresh = asyncio.run(run())
    assert late.first_text_s > 5.0 > fresh.total_s > 0.0
    for each in (late, fresh):
        assert each.first_text_s <= each.first_block_s <= each.total_s < math.inf


def test_the_whole(tmp_path, monkeypatch, capsys):
    """A run in small, and its table."""
    tiny = bench_serving.Shape("s", d_model=64, n_layers=1, mlp_hidden_size=64, vocab_size=256)
    monkeypatch.setitem(bench_serving.SHAPES, "s", tiny)
    out = tmp_path / "runs" / "serving.jsonl"
    common = ["bench_serving", "--out", str(out)]
    small = ["--shapes", "s", "--requests", "2", "--arrivals", "3", "--repeats", "1", "--threads", "1"]
    monkeypatch.setattr("sys.argv", [*common, *small, "--dtype", "float32"])
    threads = torch.get_num_threads()
    try:
        bench_serving.main()
    finally:
        torch.set_num_threads(threads)
    records = {record["who"]: record for record in map(json.loads, out.read_text().splitlines())}
    assert len(records) == 2 * 2 + 2 + 2  # both ways and arrivals for each cache, two padded batches
    assert records["arrivals dual"]["p50_total_s"] <= records["arrivals dual"]["p99_total_s"]
    # A ratio that the table must show as it is.
    slow = records[bench_serving.PADDED["published"]] | {"wall_s": 6.0, "cpu_s": 4.0}
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", [*common, "--table"])
    for noise, mark in (({"spread": 0.1, "foreign_share": 0.0}, ""), ({"spread": 0.1, "foreign_share": 0.2}, "~")):
        store(out, slow | noise)
        store(out, records["at once dual"] | {"wall_s": 2.0, "cpu_s": 2.0, "spread": 0.0, "foreign_share": 0.0})
        bench_serving.main()
        ratio = f"| torch padded Fast-dLLM | at once dual | 3.00 (2.00){mark}, asked 2.0 |"
        assert ratio in capsys.readouterr().out
