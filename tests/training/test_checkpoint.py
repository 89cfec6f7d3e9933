"""Checkpoints: complete or absent, whatever happens to the process; and only what fits is resumed."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter

from tests.training.conftest import small_model
from tests.training.ranks import make_trainer
from training.checkpoint import CheckpointMismatch
from training.distributed import World
from training.lora import LoraConfig, add_adapters
from training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]


def trainer(folder: Path, **changes) -> Trainer:
    return make_trainer(folder, "muon", World(), **changes)


def names(run: Trainer) -> list[str]:
    return sorted(path.name for path in run.checkpoints.folder.iterdir())


@pytest.mark.parametrize("cut_in", ["FileSystemWriter.finish", "os.rename"])
def test_a_process_killed_while_saving_loses_nothing_older(tmp_path, cut_in):
    """Killed when the data is written and the metadata is not; killed when all is written but the name."""
    code = f"""
        import os, sys, time
        from pathlib import Path
        from torch.distributed.checkpoint.filesystem import FileSystemWriter
        from tests.training.test_checkpoint import trainer

        run = trainer(Path({str(tmp_path)!r}))
        run.run(2)  # saved
        def hang(*arguments, **options):
            print("saving", flush=True)
            time.sleep(600)
        {cut_in} = hang
        run.run(4)
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'python'}{os.pathsep}{ROOT}"}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "saving\n"
    process.kill()
    assert process.wait() == -signal.SIGKILL
    resumed = trainer(tmp_path)
    assert names(resumed) == ["step-0000002", "step-0000004.partial"]
    assert resumed.resume()
    assert resumed.step == 2
    resumed.run(4)
    assert names(resumed) == ["step-0000002", "step-0000004"]
    whole = trainer(tmp_path / "whole")
    whole.run(4)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))
    lines = (tmp_path / "muon" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]  # the records of the lost steps came again


def test_a_checkpoint_half_deleted_does_not_look_complete(tmp_path, monkeypatch):
    run = trainer(tmp_path, checkpoint_every=1, keep_last=1)
    run.run(1)
    monkeypatch.setattr("training.checkpoint.shutil.rmtree", lambda path: (path / ".metadata").unlink())
    run.run(2)
    assert names(run) == ["step-0000001.partial", "step-0000002"]
    assert run.checkpoints.newest().name == "step-0000002"


def test_the_last_n_are_kept(tmp_path):
    run = trainer(tmp_path, checkpoint_every=2, keep_last=3)
    run.run(9)
    assert names(run) == ["step-0000006", "step-0000008", "step-0000009"]


def test_a_save_that_fails_names_the_last_good_one(tmp_path, monkeypatch):
    run = trainer(tmp_path, checkpoint_every=2)
    run.run(2)

    def full(*arguments, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr(FileSystemWriter, "finish", full)
    with pytest.raises(OSError, match=r"step-0000004.partial could not be written.*step-0000002: .*No space left"):
        run.run(4)
    assert names(run) == ["step-0000002", "step-0000004.partial"]


def test_a_run_is_not_begun_over_another(tmp_path):
    trainer(tmp_path).run(2)
    with pytest.raises(FileExistsError, match="holds a run already"):
        trainer(tmp_path).run(2)


def test_other_data_is_refused_unless_allowed(tmp_path):
    trainer(tmp_path).run(2)
    other = trainer(tmp_path)
    other.batches.data_hash = "other"
    with pytest.raises(CheckpointMismatch, match=r"data hash: expected uneven, .*got other .*--allow-changed-data"):
        other.resume()
    assert other.resume(allow_changed_data=True)


def test_another_seed_or_objective_is_refused(tmp_path):
    trainer(tmp_path).run(2)
    with pytest.raises(CheckpointMismatch, match="seed: expected 5, as the run began, got 6"):
        trainer(tmp_path, seed=6).resume()
    arm = make_trainer(tmp_path / "muon", "arm", World())
    arm.checkpoints.folder = trainer(tmp_path).checkpoints.folder
    with pytest.raises(CheckpointMismatch, match=r"objective: expected MaskedObjective.*NextTokenObjective"):
        arm.resume()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_layers": 3}, r"blocks\.2\..* expected .*got nothing"),
        ({"n_layers": 1}, r"blocks\.1\..* expected nothing, got"),
        ({"d_model": 48}, r"expected \(48.*got \(32"),
    ],
)
def test_a_checkpoint_of_another_shape_is_refused(tmp_path, sizes, message):
    trainer(tmp_path).run(2)
    run = trainer(tmp_path)
    other = Trainer(small_model(n_heads=4, **sizes), run.batches, run.objective, run.config, run.folder)
    before = [parameter.clone() for parameter in other.model.parameters()]
    with pytest.raises(CheckpointMismatch, match=message):
        other.resume()
    assert all(torch.equal(a, b) for a, b in zip(before, other.model.parameters(), strict=True))


def test_averaged_weights_cannot_come_from_a_run_without(tmp_path):
    trainer(tmp_path).run(2)
    with pytest.raises(CheckpointMismatch, match="ema: expected averaged weights"):
        trainer(tmp_path, ema=0.9).resume()


def test_only_what_learns_is_saved_and_the_rest_must_be_the_same(tmp_path):
    pytest.importorskip("peft")

    def adapted(seed: int) -> Trainer:
        like, model = trainer(tmp_path), small_model(seed)
        add_adapters(model, LoraConfig(rank=2), seed=1)
        return Trainer(model, like.batches, like.objective, like.config, tmp_path / "lora")

    first = adapted(seed=0)
    first.run(2)
    stored = FileSystemReader(first.checkpoints.newest()).read_metadata().state_dict_metadata
    assert {name.split(".")[0] for name in stored} == {"model", "optimizer"}
    assert all(".lora_" in name for name in stored)
    second = adapted(seed=0)
    assert second.resume()
    for (name, a), b in zip(first.final_weights().items(), second.final_weights().values(), strict=True):
        assert torch.equal(a, b), name
    with pytest.raises(CheckpointMismatch, match="not those that the run began with"):
        adapted(seed=1).resume()


def test_learning_rates_are_those_of_the_recipe_not_of_the_checkpoint(tmp_path):
    trainer(tmp_path).run(2)
    run = trainer(tmp_path, lr=0.5)
    assert run.resume()
    assert run.run(3)[0]["lr"] == pytest.approx(0.5)
