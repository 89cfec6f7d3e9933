"""Recipe in, configuration out: what is written reads back, and what is wrong is refused by name."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from tests.training.conftest import small_model
from training.config import to_toml
from training.distributed import World
from training.model import ModelConfig
from training.model_folder import ExportConfig, export_model
from training.objectives import choose_objective
from training.recipe import DECIDED, ModelSizes, RunConfig, prepare, read_command, read_recipe
from training.tasks.verse_run import VerseRun

RECIPES = Path(__file__).resolve().parents[2] / "training" / "recipes"
RECIPE = RECIPES / "verse.toml"


def prepared(config):
    return prepare(config, lambda model: choose_objective(model, config.train, "tokens"), World())


@pytest.mark.parametrize("name", ["verse", "verse_holes"])
def test_a_committed_recipe_reads_and_its_resolved_form_reads_back(tmp_path, name):
    config = read_recipe(RECIPES / f"{name}.toml", tmp_path, VerseRun)
    (tmp_path / "resolved.toml").write_text(to_toml(config))
    assert read_recipe(tmp_path / "resolved.toml", tmp_path, VerseRun) == config


def test_the_command_line_goes_over_the_recipe(tmp_path):
    config = read_command([str(RECIPE), "--out", str(tmp_path), "--train.lr", "1e-3", "--train.no-bf16"], "", VerseRun)
    expected = read_recipe(RECIPE, tmp_path, VerseRun)
    assert config == replace(expected, train=replace(expected.train, lr=1e-3, bf16=False))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train.lrr", "1"], "--train.lr"),
        (["--train.steps", "many"], "many"),
        (["--train.steps", "0"], "steps: expected at least 1"),
    ],
)
def test_a_wrong_option_says_what_is_wrong(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as exit:
        read_command([str(RECIPE), "--out", str(tmp_path), *arguments], "", VerseRun)
    captured = capsys.readouterr()
    assert message in captured.out + captured.err + str(exit.value)


def test_help_explains_every_field(capsys):
    with pytest.raises(SystemExit):
        read_command([str(RECIPE), "--help"], "what it does", VerseRun)
    text = capsys.readouterr().out
    assert "what it does" in text
    for words in ("--train.lr", "--model.d-model", "--verse.max-chars", "--init", "width of the residual stream"):
        assert words in text


def test_the_sizes_of_a_recipe_are_those_of_a_model():
    """Layers that are not LLaDA's have no recipe: they are made in code."""
    assert {f.name for f in fields(ModelSizes)} == {f.name for f in fields(ModelConfig)} - {*DECIDED, "layers"}


def test_the_committed_recipe_makes_the_committed_shapes(tmp_path):
    trainer, data = prepared(read_recipe(RECIPE, tmp_path, VerseRun))
    assert data.facts["poems"] >= 300
    assert trainer.model.config.vocab_size >= data.tokenizer.get_vocab_size()
    assert 3e6 <= 2 * trainer.num_parameters <= 12e6  # bytes in bf16


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[train]", "[training]", r"unknown table \[training\], did you mean 'train'"),
        ("d_model =", "d_modle =", r"\[model\]: unknown field 'd_modle', did you mean 'd_model'"),
        ("lr = 0.01", 'lr = "fast"', r"\[train\]: lr: expected float, got 'fast'"),
        ("seed =", "sed =", r"\[train\]: unknown field 'sed'"),
        ("steps = 5000", "steps = -1", r"\[train\]: steps: expected at least 1, got -1"),
        ("clip = 1.0", 'schedule = "wds"', r"\[train\]: schedule: expected one of"),
        ("batch_tokens = ", "batch_tokens = 0.5 # ", r"\[verse\]: batch_tokens: expected int"),
        ("plain = [0, 0, 0, 4]", 'plain = "no"', r"\[verse\]: pads.plain: expected a list"),
        ('dtype = "bfloat16"', 'dtype = "int3"', "'int3'"),
        ("batch_tokens = 4096", "", r"\['batch_tokens'\], which are missing"),
        ("[model]", "[model", "verse.toml|recipe.toml"),
    ],
)
def test_a_wrong_recipe_says_what_is_wrong(tmp_path, old, new, message):
    text = RECIPE.read_text()
    assert old in text
    path = tmp_path / "recipe.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        read_recipe(path, tmp_path, VerseRun)


def test_a_missing_table_is_named(tmp_path):
    text = RECIPE.read_text()
    for name in ("train", "export"):
        path = tmp_path / f"{name}.toml"
        begin, end = text.index(f"[{name}]"), text.find("\n[", text.index(f"[{name}]"))
        path.write_text(text[:begin] + (text[end:] if end > 0 else ""))
        with pytest.raises(ValueError, match=rf"\[{name}\], which is missing"):
            read_recipe(path, tmp_path, VerseRun)


def test_a_run_has_one_of_the_tables_that_say_what_it_learns(tmp_path):
    path = tmp_path / "both.toml"
    path.write_text(RECIPE.read_text() + '\n[data]\nfiles = ["rows.jsonl"]\n')
    with pytest.raises(ValueError, match=r"expected one of the tables \[data\] and \[verse\]"):
        read_recipe(path, tmp_path, VerseRun)
    with pytest.raises(ValueError, match=r"unknown table \[verse\]"):
        read_recipe(RECIPE, tmp_path, RunConfig)  # of a kind that knows no verse
    neither = tmp_path / "neither.toml"
    neither.write_text('[train]\nseed = 0\nsteps = 1\nlr = 0.1\n[export]\nname = "none"\n')
    with pytest.raises(ValueError, match=r"expected the table \[data\]"):
        read_recipe(neither, tmp_path, RunConfig)


def test_other_data_than_the_recipes_is_refused(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.read_text().replace("4765df5f", "00000000"))
    with pytest.raises(ValueError, match="sha256: expected 00000000"):
        prepared(read_recipe(path, tmp_path, VerseRun))


def test_a_run_can_go_on_from_an_exported_model(tmp_path):
    config = read_recipe(RECIPE, tmp_path / "first", VerseRun)
    first, data = prepared(config)
    export_model(first.model, data.tokenizer, tmp_path / "model", config.export)
    second, _ = prepared(replace(config, out=tmp_path / "second", init=tmp_path / "model"))
    third, _ = prepared(replace(config, out=tmp_path / "third", init=tmp_path / "model", model=None))
    for a, b, c in zip(*(trainer.model.parameters() for trainer in (first, second, third)), strict=True):
        assert torch.equal(a.bfloat16().float(), b)
        assert torch.equal(b, c)


def test_a_checkpoint_of_another_shape_is_not_a_start(tmp_path, tokenizer):
    model = small_model(vocab_size=tokenizer.get_vocab_size() + 3, weight_tying=True)
    export_model(model, tokenizer, tmp_path / "model", ExportConfig(name="a model", dtype="float32"))
    config = replace(read_recipe(RECIPE, tmp_path / "run", VerseRun), init=tmp_path / "model")
    with pytest.raises(ValueError, match="another shape"):
        prepared(config)
    with pytest.raises(ValueError, match="another vocabulary"):
        prepared(replace(config, model=None))
