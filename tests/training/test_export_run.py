"""python -m training.export: of a checkpoint, the folder that the run itself writes; of a folder, another form."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file

from training import export, sft
from training.model import LLaDA
from training.model_folder import recipes_in_card
from training.weights import weight_files

RECIPE = """
[data]
task = "copy"
num_rows = 40
[data.batches]
batch_rows = 8
[train]
seed = 3
steps = 6
lr = 0.01
ema = {ema}
bf16 = false
log_every = 2
checkpoint_every = 2
keep_last = 3
[export]
name = "copies"
dtype = "float32"
gen_length = 8
steps = 4
block_length = 8
"""
SIZES = "[model]\nd_model = 32\nn_layers = 2\nn_heads = 2\nn_kv_heads = 2\nmlp_hidden_size = 48\n"


def command(monkeypatch, stage, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", [stage.__name__, *map(str, arguments)])
    stage.main()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Checkpoints of steps 2, 4 and 6, and the model that the run wrote."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "recipe.toml").write_text(RECIPE.format(ema=0.5) + SIZES)
    with pytest.MonkeyPatch.context() as monkeypatch:
        command(monkeypatch, sft, folder / "recipe.toml", "--out", folder / "run")
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "run")


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_newest_checkpoint_is_what_the_run_wrote_itself(run, tmp_path, monkeypatch, capsys):
    command(monkeypatch, export, run, "--out", tmp_path / "again")
    assert f"model: {tmp_path / 'again'}" in capsys.readouterr().out
    assert files(tmp_path / "again") == files(run / "model")  # averaged weights, card and all


def test_an_older_checkpoint_in_shards_of_another_type(run, tmp_path, monkeypatch):
    step = run / "checkpoints" / "step-0000002"
    command(
        monkeypatch,
        export,
        step,
        "--out",
        tmp_path / "old",
        "--dtype",
        "bfloat16",
        "--max-shard-bytes",
        "1e4",
        "--name",
        "early",
    )
    assert len(weight_files(tmp_path / "old")) > 2
    early, last = LLaDA.from_folder(tmp_path / "old"), LLaDA.from_folder(run / "model")
    assert early.config == last.config
    differ = [
        not torch.equal(a.bfloat16().float(), b) for a, b in zip(last.parameters(), early.parameters(), strict=True)
    ]
    assert all(differ)
    card = (tmp_path / "old" / "README.md").read_text()
    assert card.startswith("# early\n")
    assert "seed 3, 2 steps" in card


def test_adapters_are_merged_into_what_the_run_began_with(run, tmp_path, monkeypatch):
    (tmp_path / "lora.toml").write_text(RECIPE.format(ema=0.0) + "[lora]\nrank = 2\n")
    command(monkeypatch, sft, tmp_path / "lora.toml", "--init", run / "model", "--out", tmp_path / "tuned")
    command(monkeypatch, export, tmp_path / "tuned", "--out", tmp_path / "again")
    assert files(tmp_path / "again") == files(tmp_path / "tuned" / "model")
    start, merged = load_file(run / "model" / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    changed = {name for name, tensor in merged.items() if not torch.equal(tensor, start[name])}
    assert changed == {name for name in start if ".blocks." in name and "norm" not in name}
    assert len(recipes_in_card(tmp_path / "again")) == 2  # of both stages


def test_a_model_folder_is_written_again_in_another_form(run, tmp_path, monkeypatch):
    source = run / "model"
    generation = json.loads((source / "generation_config.json").read_text())
    generation["llada_rt"]["threshold"] = 0.9
    (source / "generation_config.json").write_text(json.dumps(generation))
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**settings, "padding_side": "left"}))
    command(monkeypatch, export, source, "--out", tmp_path / "shards", "--max-shard-bytes", 10_000)
    assert len(weight_files(tmp_path / "shards")) > 2
    for a, b in zip(
        LLaDA.from_folder(source).parameters(), LLaDA.from_folder(tmp_path / "shards").parameters(), strict=True
    ):
        assert torch.equal(a, b)
    assert json.loads((tmp_path / "shards" / "generation_config.json").read_text()) == generation
    assert json.loads((tmp_path / "shards" / "tokenizer_config.json").read_text())["padding_side"] == "left"


def test_a_published_start_needs_no_card_of_ours(run, tmp_path, monkeypatch):
    """Only config.json, weights and tokenizer.json are asked of the folder that a run begins with."""
    for name in ("README.md", "tokenizer_config.json", "generation_config.json"):
        (run / "model" / name).unlink()
    (tmp_path / "more.toml").write_text(RECIPE.format(ema=0.0))
    command(monkeypatch, sft, tmp_path / "more.toml", "--init", run / "model", "--out", tmp_path / "more")
    assert len(recipes_in_card(tmp_path / "more" / "model")) == 1


def test_what_cannot_be_exported_is_said(run, tmp_path, monkeypatch):
    def refused(*arguments) -> str:
        with pytest.raises(SystemExit) as error:
            command(monkeypatch, export, *arguments)
        return str(error.value)

    assert "--overwrite" in refused(run, "--out", run / "model")
    assert "no such" in refused(tmp_path / "nowhere", "--out", tmp_path / "m")
    (run / "checkpoints" / "step-0000002" / "run.json").unlink()
    assert "expected a complete checkpoint" in refused(run / "checkpoints" / "step-0000002", "--out", tmp_path / "m")
    shutil.rmtree(run / "checkpoints")
    assert "no complete checkpoint" in refused(run, "--out", tmp_path / "m")
    assert not (tmp_path / "m").exists()
    assert not list(tmp_path.glob(".*"))
