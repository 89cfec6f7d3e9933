"""The commands: recipe in, folder out, stopped and gone on with; what is wrong is one sentence."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from training import pretrain, sft
from training.model import LLaDA

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
held_out = ["{folder}/rows.jsonl"]
[model]
d_model = 32
n_layers = 2
n_heads = 2
n_kv_heads = 2
mlp_hidden_size = 48
max_sequence_length = 64
[data]
files = ["{folder}/rows.jsonl"]
{data}
[data.batches]
batch_rows = 4
[train]
seed = 1
steps = 6
lr = 0.01
log_every = 2
sample_every = 3
[export]
name = "a small model"
gen_length = 8
steps = 8
block_length = 8
"""


@pytest.fixture
def recipe(tmp_path):
    """recipe(*lines of [data]) -> path; six questions and answers."""

    def write(*data: str) -> str:
        rows = [{"prompt": f"what comes after {number}?", "answer": str(number + 1)} for number in range(6)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        path = tmp_path / "recipe.toml"
        path.write_text(RECIPE.format(folder=tmp_path, data="\n".join(data)))
        return str(path)

    return write


def run(stage, monkeypatch, *arguments: str) -> None:
    """A command as the shell would call it; SystemExit is its end with an error."""
    monkeypatch.setattr(sys, "argv", ["stage", *arguments])
    stage.main()


def steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("causal", [False, True])
def test_pretraining_and_fine_tuning_leave_whole_folders(recipe, tmp_path, monkeypatch, causal):
    first, second = tmp_path / "first", tmp_path / "second"
    run(
        pretrain,
        monkeypatch,
        recipe('layout = "packed"', "window = 16"),
        "--out",
        str(first),
        f"--model.{'' if causal else 'no-'}causal",
    )
    assert {path.name for path in first.iterdir()} >= {
        *("config.toml", "metrics.jsonl", "checkpoints", "samples.txt", "curves.png", "model")
    }
    assert steps(first) == [2, 3, 4, 6]
    last = json.loads((first / "metrics.jsonl").read_text().splitlines()[-1])
    assert set(last) >= {"loss", "held_out", "lr", "grad_norm", "tokens", "tokens_per_s", "cpu_s"}
    samples = (first / "samples.txt").read_text()
    assert samples.count("given") == samples.count("made") == samples.count("true") >= 4
    model = LLaDA.from_folder(first / "model")
    assert model.config.causal == causal
    # Fine-tuning takes sizes and tokenizer from the folder.
    text = Path(recipe("[data.rows]\nchat = true")).read_text()
    (tmp_path / "sft.toml").write_text(re.sub(r"\[model\].*?(?=\[data\])", "", text, flags=re.DOTALL))
    run(sft, monkeypatch, str(tmp_path / "sft.toml"), "--init", str(first / "model"), "--out", str(second))
    tuned = LLaDA.from_folder(second / "model")
    assert tuned.config == model.config
    assert not all(torch.equal(a, b) for a, b in zip(model.parameters(), tuned.parameters(), strict=True))
    a, b = (Tokenizer.from_file(str(folder / "model" / "tokenizer.json")) for folder in (first, second))
    assert a.get_vocab() == b.get_vocab()
    assert "what comes after" in (second / "samples.txt").read_text()


def test_a_command_told_to_stop_saves_and_exits_cleanly_and_goes_on(recipe, tmp_path, monkeypatch):
    path, out = recipe(), tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'python'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "training.pretrain", path, "--out", str(out), "--train.steps", "1000000"]
    process = subprocess.Popen(
        [*command, "--train.sample-every", "0"], env=environment, stderr=subprocess.PIPE, text=True
    )
    while not process.stderr.readline().startswith("step 4/"):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    assert process.wait(60) == 0, rest
    stopped = int(re.search(r"stopped by a signal after step (\d+)", rest)[1])
    assert not (out / "model").exists()
    run(pretrain, monkeypatch, path, "--out", str(out), "--train.steps", str(stopped + 3), "--train.sample-every", "0")
    assert (out / "model" / "config.json").exists()
    assert steps(out) == sorted(set(steps(out)))
    assert steps(out)[-1] == stopped + 3


def test_a_finished_run_is_not_overwritten(recipe, tmp_path, monkeypatch):
    path, out = recipe(), tmp_path / "run"
    run(pretrain, monkeypatch, path, "--out", str(out))
    (out / "checkpoints").rename(tmp_path / "elsewhere")
    before = (out / "model" / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit, match=r"holds a model, and .* no run to go on with"):
        run(pretrain, monkeypatch, path, "--out", str(out))
    assert (out / "model" / "model.safetensors").read_bytes() == before


def test_changed_data_is_refused_before_anything_is_written(recipe, tmp_path, monkeypatch):
    path, out = recipe(), tmp_path / "run"
    run(pretrain, monkeypatch, path, "--out", str(out))
    before = {file: file.read_bytes() for file in (out / "model").iterdir()}
    rows = (tmp_path / "rows.jsonl").read_text()
    (tmp_path / "rows.jsonl").write_text(rows.replace("what", "tell"))
    with pytest.raises(SystemExit, match="data hash: expected"):
        run(pretrain, monkeypatch, path, "--out", str(out), "--train.steps", "8")
    assert {file: file.read_bytes() for file in (out / "model").iterdir()} == before
    run(pretrain, monkeypatch, path, "--out", str(out), "--train.steps", "8", "--allow-changed-data")
    assert steps(out)[-1] == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"answer": "1"', '"answer": ""'), r"rows.jsonl:1: the row has no answer"),
        (('"answer": "1"', '"answer": "<|mdm_mask|>"'), r"rows.jsonl:1: the text holds <\|mdm_mask\|>"),
        (('"answer": "1"', f'"answer": "{"1" * 99}"'), r"rows.jsonl:1: .* the context has 64"),
        (('"answer": "1"', '"reply": "1"'), r"rows.jsonl:1: expected the keys"),
    ],
)
def test_bad_rows_are_named_and_nothing_is_written(recipe, tmp_path, monkeypatch, change, message):
    path = recipe()
    rows = tmp_path / "rows.jsonl"
    rows.write_text(rows.read_text().replace(*change))
    with pytest.raises(SystemExit, match=message):
        run(sft, monkeypatch, path, "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run" / "model").exists()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_fine_tuning_wants_rows(recipe, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="layout: expected 'rows'"):
        run(sft, monkeypatch, recipe('layout = "packed"'), "--out", str(tmp_path / "run"))


def test_a_folder_that_is_no_model_is_not_a_start(recipe, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="nowhere"):
        run(sft, monkeypatch, recipe(), "--out", str(tmp_path / "run"), "--init", str(tmp_path / "nowhere"))
