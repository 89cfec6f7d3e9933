"""The demo model through the Engine and through the torch loop of training/sampling.py: the same tokens, float32."""

import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from llada_rt import Engine, SamplingParams
from llada_rt.config import DEMO_DIR
from tests.tolerance import FORWARD_FLOOR, error
from training.model import LLaDA
from training.sampling import generate, infill
from training.tasks import verse
from training.tasks.items import Item
from training.tasks.verse import VerseBook, hole_items, line_items

RECIPE = Path(verse.__file__).parents[1] / "recipes" / "verse.toml"
GEN_LENGTH = 28
NUM_EACH = {"next_line": 50, "previous_line": 50, "holes": 100}

pytestmark = pytest.mark.skipif(
    not (DEMO_DIR / "model.safetensors").is_file(), reason="the demo model is not in the package"
)


@pytest.fixture(scope="module")
def model() -> LLaDA:
    return LLaDA.from_folder(DEMO_DIR)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DEMO_DIR / "tokenizer.json"))


@pytest.fixture(scope="module")
def engine():
    with Engine(compute_type="float32", max_num_seqs=16) as engine:
        yield engine


@pytest.fixture(scope="module")
def book() -> VerseBook:
    """The poems that the demo was trained on."""
    return VerseBook.select(max_chars=tomllib.loads(RECIPE.read_text())["verse"]["max_chars"])


def pick(items: Sequence[Item], count: int) -> list[Item]:
    """Spread over the book."""
    return [items[i] for i in np.linspace(0, len(items) - 1, count).astype(int)]


# Each task and each length of a block once; the other pairs are slow.
@pytest.mark.parametrize(
    ("task", "block_length"),
    [
        ("next_line", GEN_LENGTH),
        ("previous_line", 7),
        pytest.param("next_line", 7, marks=pytest.mark.slow),
        pytest.param("previous_line", GEN_LENGTH, marks=pytest.mark.slow),
    ],
)
def test_answers_equal_the_torch_loop(engine, model, tokenizer, book, task, block_length):
    items = pick(line_items(book, tokenizer, task, gen_length=GEN_LENGTH), NUM_EACH[task])
    prompts = [item.canvas[: item.start] for item in items]
    lengths = {"gen_length": GEN_LENGTH, "block_length": block_length, "steps": GEN_LENGTH}
    want = generate(model, prompts, **lengths)
    outputs = engine.generate([{"prompt_token_ids": list(p)} for p in prompts], SamplingParams(**lengths))
    for prompt, output, canvas in zip(prompts, outputs, want, strict=True):
        assert [*prompt, *output.outputs[0].token_ids] == canvas


def test_filled_holes_equal_the_torch_loop(engine, model, tokenizer, book):
    items = pick(hole_items(book, tokenizer), NUM_EACH["holes"])
    for item, canvas in zip(items, infill(model, [item.canvas for item in items]), strict=True):
        segments = [1 if token == engine.mask_token_id else [token] for token in item.canvas]
        assert engine.infill(segments, SamplingParams()).outputs[0].token_ids == canvas


def test_logits_equal_torch(engine, model):
    """So that a difference of tokens, if there is one, can be told from a difference of logits."""
    tokens = torch.randint(0, engine.vocab_size, (1, 90), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = model(tokens)[0]
        exact = model.double()(tokens)[0]
        model.float()
    got = engine.forward(tokens[0].tolist())
    floor = FORWARD_FLOOR["float32"] * exact.abs().max().item()
    assert error(got, exact.numpy()) <= 2 * error(want.numpy(), exact.numpy()) + floor
