"""Recipes too large for this machine: they are read, their networks have the stated sizes, the sums add up."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from training.model import LLaDA, ModelConfig
from training.recipe import RunConfig, read_recipe

RECIPES = Path(__file__).resolve().parents[2] / "training" / "recipes"
PLANS = (RECIPES / "PLANS.md").read_text(encoding="utf-8")
VOCABULARY = 126_464


@pytest.mark.parametrize(("name", "parameters"), [("llada_1b", 1_487_243_264), ("llada_8b_sft", 8_015_581_184)])
def test_the_networks_have_the_published_numbers_of_parameters(name, parameters):
    sizes = read_recipe(RECIPES / f"{name}.toml", Path("out"), RunConfig).model
    ids = {"mask_token_id": 126336, "eos_token_id": 126081, "pad_token_id": 126081}
    with torch.device("meta"):
        model = LLaDA(ModelConfig(**dataclasses.asdict(sizes), **ids, vocab_size=VOCABULARY))
    assert model.num_parameters == parameters
    assert f"**{parameters:,} parameters**" in PLANS


def test_the_poems_recipe_is_read_and_names_what_the_corpus_writes():
    recipe = read_recipe(RECIPES / "poems.toml", Path("out"), RunConfig)
    assert recipe.data.files == ("data/poems.jsonl",) or list(recipe.data.files) == ["data/poems.jsonl"]
    assert list(recipe.held_out) == ["data/poems.valid.jsonl"]
    assert dict(recipe.data.rows.columns) == {"prompt": "title", "answer": "text"}
    text = (RECIPES / "poems.toml").read_text(encoding="utf-8")
    command = re.search(r"python -m training\.corpora fetch poems (.+)", text)[1]
    assert command == "--shapes 4x5 4x7 --simplified --out data"


def test_the_sums_of_the_plans():
    """Numbers of PLANS.md, computed again from the recipes."""
    one = read_recipe(RECIPES / "llada_1b.toml", Path("out"), RunConfig)
    tokens = one.data.batches.batch_rows * one.data.window
    blocks, head = 22 * (2 * 2048**2 + 2 * 2048 * 256 + 3 * 2048 * 5634), VOCABULARY * 2048
    flop = (6 * blocks + 12 * 22 * 2048 * 4096) * 4 / 3 + 3 * head
    assert f"{flop / 1e9:.1f}" == "11.5"
    hours = one.train.steps * tokens * flop / (8 * 0.4 * 989e12) / 3600
    assert f"= {one.train.steps:,} steps = {hours:.0f} hours" in PLANS
    assert 29e9 < one.train.steps * tokens < 31e9
    eight = read_recipe(RECIPES / "llada_8b_sft.toml", Path("out"), RunConfig)
    blocks, head = 32 * (4 * 4096**2 + 3 * 4096 * 12288), VOCABULARY * 4096
    flop = (6 * blocks + 12 * 32 * 4096 * 512) * 4 / 3 + 3 * head
    seconds = eight.data.batches.batch_rows * 512 * flop / (8 * 0.4 * 989e12)
    assert f"(*assumed*): {seconds:.1f} s" in PLANS
    assert f"{eight.train.steps:,} steps = {eight.train.steps * seconds / 60:.0f} minutes" in PLANS
    logits = 12 * VOCABULARY * eight.train.micro_tokens / 2
    assert f"logits {logits / 1e9:.1f} GB" in PLANS
