"""The pair command, from recipes to results, on models that learn nothing in four steps."""

import json

import pytest

from training.config import to_toml
from training.experiments import pair
from training.recipe import RunConfig, read_recipe

RECIPE = """
[model]
d_model = 32
n_layers = 1
n_heads = 2
n_kv_heads = 2
mlp_hidden_size = 48
max_sequence_length = 64
weight_tying = true
causal = {causal}

[data]
task = "{task}"
num_rows = 40

[data.batches]
batch_rows = 8

[train]
seed = 1
steps = 4
lr = 0.01
log_every = 1
checkpoint_every = 2
sample_every = 2

[export]
name = "pair"
"""


def write_recipes(folder, **tasks):
    folder.mkdir()
    for kind in pair.KINDS:
        text = RECIPE.format(causal=str(kind == "arm").lower(), task=tasks.get(kind, "copy"))
        (folder / f"{kind}.toml").write_text(text)
    return folder


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["pair", *map(str, arguments), "--curve", "6", "--num", "5"])
    pair.main()


def test_both_are_trained_and_examined(monkeypatch, tmp_path, capsys):
    recipes, out = write_recipes(tmp_path / "recipes"), tmp_path / "out"
    run(monkeypatch, recipes, "--out", out, "--only", "arm")
    assert not (out / "results.json").exists()  # half a pair is none
    run(monkeypatch, recipes, "--out", out)
    results = json.loads((out / "results.json").read_text())
    assert set(results) == {"mdm", "arm"}
    for kind, result in results.items():
        assert [point["step"] for point in result["curve"]] == [2, 4]
        assert all(point["asked"] == 6 and 0 <= point["right"] <= 6 for point in result["curve"])
        assert result["train"]["step"] == 4
        assert result["parameters"] == results["mdm"]["parameters"]
        assert all(answer["asked"] == 5 for answer in result["answers"].values())
        assert result["likelihood"]["kind"] == ("exact" if kind == "arm" else "upper bound")
        assert "right:" in (out / kind / "samples.txt").read_text()
    assert list(results["mdm"]["answers"]) == list(pair.SETTINGS)
    assert list(results["arm"]["answers"]) == ["greedy"]
    assert "mdm, reference:" in capsys.readouterr().out


def test_what_is_not_a_comparison_is_refused(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="expected one task and one"):
        run(monkeypatch, write_recipes(tmp_path / "a", arm="sort"), "--out", tmp_path / "out")
    recipes = write_recipes(tmp_path / "b")
    for name, old, new, message in (
        ("arm", "causal = true", "causal = false", "causal in arm.toml only"),
        ("mdm", "n_layers = 1", "n_layers = 2", "models of one size"),
    ):
        path = recipes / f"{name}.toml"
        text = path.read_text()
        path.write_text(text.replace(old, new))
        with pytest.raises(SystemExit, match=message):
            run(monkeypatch, recipes, "--out", tmp_path / "out")
        path.write_text(text)


def test_the_committed_pairs_are_pairs(tmp_path):
    from pathlib import Path

    folder = Path(pair.__file__).parents[1] / "recipes"
    pairs = sorted(folder.glob("*_pair"))
    assert pairs
    for recipes in pairs:
        configs = {kind: read_recipe(recipes / f"{kind}.toml", tmp_path, RunConfig) for kind in pair.KINDS}
        pair.check_pair(configs)
        assert configs["mdm"].train == configs["arm"].train
        assert "causal = true" in to_toml(configs["arm"])
