"""Two ranks are one process: the same losses and weights, whatever the optimiser, the micro-batches, the rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tolerance import RANKS, error
from tests.training.ranks import OPTIONS, make_trainer, run_steps
from training.checkpoint import load_parameters
from training.distributed import World, choose_device, share

ROOT = Path(__file__).resolve().parents[2]


def torchrun(folder: Path, *arguments: str, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    """tests/training/ranks.py on some gloo ranks."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.run(
        [*command, "-m", "tests.training.ranks", str(folder), *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'python'}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> Path:
    """All variants of OPTIONS in one pair of processes: starting them is what takes the time."""
    folder = tmp_path_factory.mktemp("ranks")
    result = torchrun(folder, *OPTIONS)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", OPTIONS)
def test_two_ranks_train_as_one_process_does(two_ranks, tmp_path, name):
    alone = run_steps(tmp_path, name, World())
    expected, received = losses(tmp_path / name), losses(two_ranks / name)[:20]
    assert len(expected) == 20
    assert error(np.array(received), np.array(expected)) < RANKS["loss"]
    weights = torch.load(two_ranks / name / "weights.pt")
    assert alone.keys() == weights.keys()
    for key, value in alone.items():
        assert error(weights[key].numpy(), value.numpy()) < RANKS["weight"], key


@pytest.mark.parametrize("name", OPTIONS)
def test_a_checkpoint_of_two_ranks_goes_on_in_one_process(two_ranks, tmp_path, name):
    """As it goes on on two."""
    (tmp_path / name / "checkpoints").mkdir(parents=True)
    (tmp_path / name / "checkpoints" / "step-0000020").symlink_to(two_ranks / name / "checkpoints" / "step-0000020")
    run_steps(tmp_path, name, World(), stop=24, resume=True)
    expected = losses(two_ranks / name)[20:]
    assert len(expected) == 4
    assert error(np.array(losses(tmp_path / name)), np.array(expected)) < RANKS["loss"]


@pytest.mark.parametrize("name", ["muon", "parts", "adapters"])
def test_a_checkpoint_of_two_ranks_becomes_a_whole_model(two_ranks, tmp_path, name):
    """What export reads: with `parts` the averages, with `adapters` these alone."""
    model = make_trainer(tmp_path, name, World()).model
    record = load_parameters(two_ranks / name / "checkpoints" / "step-0000020", model)
    assert (record["step"], record["ranks"]) == (20, 2)
    final = torch.load(two_ranks / name / "weights.pt")
    for key, value in model.state_dict().items():
        assert torch.equal(value, final[key]), key


@pytest.mark.parametrize(("count", "parts"), [(0, 3), (1, 3), (7, 2), (8, 2), (5, 5)])
def test_rows_are_shared_without_loss(count, parts):
    ranges = [share(count, part, parts) for part in range(parts)]
    assert [row for rows in ranges for row in rows] == list(range(count))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="no usable GPU, got 'cuda:0'"):
        choose_device("cuda")
