"""The committed demo model: it knows its poems, and its card tells where it comes from."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from training.evaluation import torch_sampler
from training.model import LLaDA
from training.tasks.items import ask
from training.tasks.verse import VerseBook, data_hash, verse_items

DEMO = Path(__file__).resolve().parents[2] / "python" / "llada_rt" / "demo"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(DEMO / "tokenizer.json"))


@pytest.fixture(scope="module")
def questions(tokenizer):
    """A hundred of its questions, spread over the book and every task but the long recitations."""
    items = verse_items(VerseBook.select(max_chars=64), tokenizer, gen_length=16)
    short = [item for item in items if item.task != "recite"]
    return short[:: len(short) // 100][:100]


def test_it_knows_its_poems(questions, tokenizer):
    """The card's figures are over all questions; a hundred of them show that these are the weights they were for."""
    scores = ask(questions, tokenizer, torch_sampler(LLaDA.from_folder(DEMO)))
    assert sum(tally.right for tally in scores.values()) >= 93


def test_the_card_names_the_data(tokenizer):
    card = (DEMO / "README.md").read_text(encoding="utf-8")
    assert data_hash() in card
    assert "## Exact match" in card


def test_it_is_small_and_rounded_once(tokenizer):
    assert 3e6 <= (DEMO / "model.safetensors").stat().st_size <= 12e6
    config = json.loads((DEMO / "config.json").read_text(encoding="utf-8"))
    assert config["weight_tying"]
    assert config["torch_dtype"] == "bfloat16"
    model = LLaDA.from_folder(DEMO)
    assert all(torch.equal(p, p.bfloat16().float()) for p in model.parameters())
    assert tokenizer.get_vocab_size() <= config["vocab_size"]
