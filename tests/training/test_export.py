"""Recipe in, folder out: what is written reads back, and what is wrong is refused."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from tests.training.conftest import small_model
from training.export import ExportConfig, export_model, recipes_in_card, write_results
from training.model import LLaDA
from training.pretrain import Recipe, prepare
from training.tokenizer import CHAT_TEMPLATE

RECIPE = Path(__file__).resolve().parents[2] / "training" / "recipes" / "verse.toml"
CONFIG = ExportConfig(name="a model", dtype="float32", gen_length=8, steps=4, block_length=8)


@pytest.fixture
def model(tokenizer):
    return small_model(vocab_size=tokenizer.get_vocab_size() + 3, weight_tying=True)


def test_an_exported_folder_reads_back(tmp_path, model, tokenizer):
    export_model(model, tokenizer, tmp_path / "m", CONFIG, facts={"seed": 3}, recipes=["[x]", "[y]\nz = 1"])
    loaded = LLaDA.from_folder(tmp_path / "m")
    tokens = torch.arange(12)[None]
    torch.testing.assert_close(loaded(tokens), model(tokens), rtol=0, atol=0)
    again = Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json"))
    assert again.get_vocab() == tokenizer.get_vocab()
    settings = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == CHAT_TEMPLATE
    generation = json.loads((tmp_path / "m" / "generation_config.json").read_text())
    assert generation["llada_rt"] == {"gen_length": 8, "steps": 4, "block_length": 8}
    assert (generation["mask_token_id"], generation["eos_token_id"], generation["eot_token_id"]) == (2, 1, 5)
    card = (tmp_path / "m" / "README.md").read_text()
    assert "seed: 3" in card
    assert recipes_in_card(tmp_path / "m") == ["[x]", "[y]\nz = 1"]


def test_results_in_the_card_replace_older_ones(tmp_path, model, tokenizer):
    export_model(model, tokenizer, tmp_path, CONFIG, facts={"seed": 3}, recipes=["[x]", "[y]\nz = 1"])
    write_results(tmp_path, "old note", {"torch loop": {"holes": "50.0 %"}})
    write_results(tmp_path, "new note", {"a": {"holes": "60.0 %"}, "b": {"holes": "70.0 %", "recite": "1.0 %"}})
    card = (tmp_path / "README.md").read_text()
    assert "|  | a | b |\n| --- | --- | --- |\n| holes | 60.0 % | 70.0 % |\n| recite |  | 1.0 % |\n" in card
    assert "old note" not in card
    assert card.count("## ") == 3
    assert "seed: 3" in card
    assert "[x]" in card


def test_bf16_export_rounds_once(tmp_path, model, tokenizer):
    export_model(model, tokenizer, tmp_path, ExportConfig(name="a model"))
    loaded = LLaDA.from_folder(tmp_path)
    for a, b in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a.to(torch.bfloat16).float(), b)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_a_model_that_is_there_stays(tmp_path, model, tokenizer):
    export_model(model, tokenizer, tmp_path, CONFIG)
    with pytest.raises(FileExistsError, match="overwrite"):
        export_model(model, tokenizer, tmp_path, CONFIG)
    export_model(model, tokenizer, tmp_path, CONFIG, overwrite=True)


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="16 rows"):
        export_model(small_model(vocab_size=16), tokenizer, tmp_path, CONFIG)


def test_weights_that_are_not_finite_are_refused(tmp_path, model, tokenizer):
    with torch.no_grad():
        model.transformer["wte"].weight[7, 3] = torch.nan
    with pytest.raises(ValueError, match=r"wte\.weight"):
        export_model(model, tokenizer, tmp_path, CONFIG)
    assert not list(tmp_path.iterdir())


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match="'float16'"):
        ExportConfig(name="a model", dtype="float16")


def test_the_committed_recipe_makes_the_committed_shapes(tmp_path):
    recipe = Recipe.read(RECIPE)
    trainer, book, tokenizer = prepare(recipe, tmp_path)
    assert len(book.poems) >= 300
    assert trainer.model.config.vocab_size >= tokenizer.get_vocab_size()
    assert 3e6 <= 2 * trainer.model.num_parameters <= 12e6  # bytes in bf16


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[train]", "[training]", "expected tables"),
        ("d_model =", "width =", r"\[model\]: unknown \['width'\]"),
        ("lr = 0.01", 'lr = "fast"', r"\[train\]: lr expected .*'fast'"),
        ("seed =", "sed =", r"\[train\]: unknown \['sed'\]"),
        ("batch_tokens = ", "batch_tokens = 0.5 # ", r"\[data\]: batch_tokens expected"),
        ('dtype = "bfloat16"', 'dtype = "int3"', "'int3'"),
    ],
)
def test_a_wrong_recipe_says_what_is_wrong(tmp_path, old, new, message):
    text = RECIPE.read_text()
    assert old in text
    path = tmp_path / "recipe.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        Recipe.read(path)


def test_a_recipe_without_a_needed_field_says_which(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("\n".join(line for line in RECIPE.read_text().splitlines() if not line.startswith("batch_tokens")))
    with pytest.raises(ValueError, match="batch_tokens"):
        Recipe.read(path)


def test_other_data_than_the_recipes_is_refused(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.read_text().replace("4765df5f", "00000000"))
    with pytest.raises(ValueError, match="sha256 expected 00000000"):
        prepare(Recipe.read(path), tmp_path)


def test_a_run_can_go_on_from_an_exported_model(tmp_path):
    recipe = Recipe.read(RECIPE)
    first, _, tokenizer = prepare(recipe, tmp_path / "first")
    export_model(first.model, tokenizer, tmp_path / "model", recipe.export)
    second, *_ = prepare(recipe, tmp_path / "second", init=tmp_path / "model")
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a.bfloat16().float(), b)


def test_a_model_of_another_vocabulary_is_not_a_start(tmp_path, model, tokenizer):
    export_model(model, tokenizer, tmp_path / "model", CONFIG)
    with pytest.raises(ValueError, match="expected the recipe's sizes"):
        prepare(Recipe.read(RECIPE), tmp_path / "run", init=tmp_path / "model")
