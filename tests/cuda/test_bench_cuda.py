"""The benchmark of the CUDA backend as far as it goes without a GPU: what it runs, on the processor; what it prints."""

from dataclasses import replace

import pytest
import torch

from benchmarks import bench_cuda
from benchmarks.baselines.arm_cuda_torch import GraphedArm
from benchmarks.shapes import Shape
from llada_rt import _core
from training.model import LLaDA

TINY = Shape("tiny", d_model=64, n_layers=2, mlp_hidden_size=96, vocab_size=160)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return _core.Runtime(str(TINY.write(tmp_path_factory.mktemp("tiny"))), num_threads=2)


def test_steps_are_those_of_a_block(runtime):
    steps = bench_cuda.Steps(runtime, TINY, batch=3)
    start, stop = steps.block
    steps.refresh()
    slots = steps.plan["slot"].tolist()
    masked = lambda slot: int((runtime.canvas(slot)[start:stop] == TINY.config.mask_token_id).sum())  # noqa: E731
    assert [masked(slot) for slot in slots] == [bench_cuda.BLOCK - 1] * 3
    steps.refine()
    assert [masked(slot) for slot in slots] == [bench_cuda.BLOCK - 1 - bench_cuda.STEPS] * 3
    steps.close()
    assert runtime.num_open_slots == 0


@pytest.mark.parametrize("k", [1, 3, 8])
def test_fixed_work_fills_the_canvas(runtime, k):
    assert bench_cuda.fixed_work_ours(runtime, TINY, k, gen_length=64) > 0
    assert runtime.num_open_slots == 0


def test_ops_are_timed_one_by_one(runtime):
    records = bench_cuda.op_times(runtime, TINY)
    calls = {record["op"]: record["calls_per_step"] for record in records}
    assert calls["candidates"] == calls["commit"] == calls["embed"] == 1
    assert calls["attention"] == TINY.n_layers


def test_the_table_has_every_record():
    records = [
        {"what": "refine step", "compute_type": "bfloat16", "batch": 1, "ms": 5.0, "share_of_roof": 0.8}
        | {"host_share": 0.01, "gb_per_s": 3000.0, "tflops": 100.0},
        {"what": "fixed work", "who": "torch Fast-dLLM", "k": 3, "tokens_per_s": 50.0, "ours_over": 4.0},
        {"what": "fixed work", "who": "torch ARM, graph", "k": 1, "tokens_per_s": 90.0, "ours_over": {"k = 3": 2.0}},
        {"what": "op, alone", "op": "matmul", "calls_per_step": 5.0, "us_per_call": 20.0},
    ]
    shown = bench_cuda.table(records)
    for words in ("refine step | bfloat16, batch 1 | 5.000 | 80% | 1.0%", "50.0 | 4.00", "k = 3: 2.00", "matmul | 5.0"):
        assert words in shown


def test_the_arm_writes_what_its_model_says(tmp_path):
    """Through its cache, as the whole text in one causal forward; the graph itself needs a GPU."""
    model = LLaDA.from_folder(TINY.write(tmp_path), dtype=torch.float32)
    arm, prompt, num_new = GraphedArm(model, length=24), TINY.text(9), 8
    written = [arm._forward(torch.tensor([prompt]), torch.arange(9))]
    for at in range(9, 9 + num_new - 1):
        written.append(arm._forward(written[-1], torch.tensor([at])))
    tokens = [int(token) for token in written]
    causal = LLaDA(replace(model.config, causal=True))
    causal.load_state_dict(model.state_dict())
    with torch.no_grad():
        logits = causal(torch.tensor([prompt + tokens]))[0]  # (17, vocabulary)
    assert tokens == logits[8:-1].argmax(-1).tolist()


def test_without_a_gpu_nothing_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(bench_cuda.device, "missing_cuda", lambda: "no NVIDIA driver on this machine")
    monkeypatch.setattr("sys.argv", ["bench_cuda"])
    with pytest.raises(SystemExit) as left:
        bench_cuda.main()
    assert left.value.code == 4
    assert "no GPU: no NVIDIA driver" in capsys.readouterr().out
